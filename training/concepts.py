"""The closed world of the bundled model: about 500 emoji, their names in 13 languages, and caption templates.

A *concept* is one entry of `EMOJI`. Usually it is a single emoji. Where Unicode has both a face and a whole
animal ("🐱🐈"), both pictures show the same thing to a user who types "cat", so they form one concept: the first
character is the picture shown in the gallery, the last one gives the names.
"""

import re
import unicodedata
import zlib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CLDR_FOLDER = Path("/usr/share/unicode/cldr/common/annotations")  # Debian package unicode-cldr-core

LANGUAGES = ("en", "de", "nl", "fr", "es", "pt", "it", "ru", "uk", "ar", "zh", "ja", "ko")

# Chosen by eye for being well known and distinct at 96 pixels: no flags, no people, no clock faces, arrows or
# zodiac signs, and only one of each pair that differs in a detail (one hospital, no bank beside it).
EMOJI = {
    "animals": """
        🐱🐈 🐶🐕 🐭🐁 🐰🐇 🐮🐄 🐷🐖 🐵🐒 🐴🐎 🐯🐅 🐳🐋 🐲🐉 🦊 🐻 🐼 🐨 🦁 🐸 🐹 🐺 🐔 🐧 🐦 🐤 🐣 🦆 🦅 🦉 🦇 🐗 🦄
        🐝 🐛 🦋 🐌 🐞 🐜 🦗 🕷 🕸 🦂 🐢 🐍 🦎 🦖 🦕 🐙 🦑 🦐 🦞 🦀 🐡 🐠 🐟 🐬 🦈 🐊 🐆 🦓 🦍 🦧 🐘 🦛 🦏 🐫 🦒 🦘
        🐏 🐑 🦙 🐐 🦌 🐩 🐓 🦃 🦚 🦜 🦢 🦩 🕊 🐿 🦝 🦨 🦦 🦥 🦔 🐾 🦟 🦠 🐚 🦭 🦫 🦬 🦣 🪲 🪶""",
    "plants": "🌵 🎄 🌲 🌳 🌴 🌱 🍀 🍁 🍂 🍄 🌾 💐 🌷 🌹 🌺 🌸 🌻 🪴 🪷 🌿 🪵",
    "food": """
        🍇 🍈 🍉 🍊 🍋 🍌 🍍 🥭 🍎 🍏 🍐 🍑 🍒 🍓 🫐 🥝 🍅 🫒 🥥 🥑 🍆 🥔 🥕 🌽 🌶 🫑 🥒 🥬 🥦 🧄 🧅 🥜 🌰 🍞 🥐 🥖
        🥨 🥯 🥞 🧇 🧀 🍖 🍗 🥩 🥓 🍔 🍟 🍕 🌭 🥪 🌮 🌯 🥚 🍳 🥘 🥗 🍿 🧈 🧂 🥫 🍱 🍘 🍙 🍚 🍛 🍜 🍝 🍠 🍢 🍣 🍤 🍥
        🍡 🥟 🥠 🥡 🍦 🍧 🍨 🍩 🍪 🎂 🍰 🧁 🥧 🍫 🍬 🍭 🍮 🍯 🍼 🥛 ☕ 🫖 🍵 🍶 🍾 🍷 🍸 🍹 🍺 🥂 🥃 🥤 🧋 🧃 🧊 🥢
        🍽 🥄 🔪 🏺""",
    "faces and signs": """
        😀 😂 😍 😎 😭 😡 😱 😴 🤢 🤠 🤡 🤖 👽 👾 👻 💀 💩 🤓 😷 🤕 🤑 🥶 🥵 🥳 🤯 😇 👿 🤔 🙃 🤩 😘 🤐 🤮 🤒 ❤ 💔
        💙 💚 💛 💜 🖤 💋 💯 💣 💤 💥 🦷 🦴 👂 👃 🧠 👣 👍 💪 🙏""",
    "weather and sky": "☀ 🌈 ☁ 🌧 ❄ ☃ 🌪 🌙 🌍 ⭐ ⚡ 🔥 💧 🌊 ☂ 🪐 ☄ 🌡",
    "vehicles": """
        🚗 🚕 🚌 🏎 🚓 🚑 🚒 🚚 🚜 🚲 🛵 🏍 🛴 🛹 🚂 🚄 🚁 ✈ 🚀 🛸 ⛵ 🚤 🚢 🛶 ⚓ ⛽ 🚦 🛑 🚧 🛰 🚡 🪂 🛞 🛺 🛟 🛻""",
    "places": "🏠 🏢 🏥 🏭 🏰 🏯 ⛪ 🕌 ⛩ 🗽 🗼 ⛲ ⛺ 🎡 🎢 🎠 🎪 🏟 🌋 🗻 🏝 🏖 🏜 🌉 🌅 🗿 🛖 🏛 🕋 🗺",
    "sports and play": """
        ⚽ 🏀 🏈 ⚾ 🎾 🏐 🏉 🎱 🏓 🏸 🏒 🥊 🎳 🎯 🎣 🥋 ⛸ 🎿 🛷 🥌 🏹 🪁 🪃 🪀 🏆 🥇 🏏 ⛳ 🤿 🛼 🎮 🎲 🧩 🎰 🃏 🧸
        🪆 🎈 🎁 🎀 🎉 🎆 🎃 🎎 🎏 🎐 🧨 🪄 🔮 🪅""",
    "music and arts": "🎸 🎹 🎺 🎷 🎻 🥁 🪕 🪗 🎤 🎧 🎵 🎭 🎨 🎬 🪩",
    "objects": """
        ⌚ 📱 💻 ⌨ 🖱 🖨 💾 💿 📷 🎥 📺 ☎ 🔋 🔌 💡 🔦 🕯 🗑 🛒 💰 💳 💎 ⚖ 🔧 🔨 🪓 🪚 🪛 🔩 ⚙ 🧲 🔫 🧪 🔬 🔭 📡
        💉 💊 🩹 🩺 🚪 🪞 🪟 🛏 🛋 🪑 🚽 🚿 🛁 🧼 🪥 🧽 🧹 🧺 🪣 🪒 🧻 🔑 🔒 🗝 ⏰ ⏳ 🧭 📦 📫 ✉ 📚 📖 📰 ✏ 🖌 🖍
        ✂ 📎 📌 📏 📅 📈 🔍 🧳 👑 🎩 🎓 🧢 👒 👓 🕶 👔 👕 👖 👗 👘 👙 🧦 🧤 🧣 🧥 👟 👠 👢 👜 🎒 💍 💄 🪖 ⛑ 🏮 🪔
        🪜 ⛓ 🗡 ⚔ 🛡 🚬 ⚰ 🪦 🧯 🪤 🧬 🧱 🪙 🔔 📣 🧵 🧶 🧷 🪠 🚨 💈 🧮 🛎 🖼 📜""",
}

# The family template of SigLIP is used with labels of every language; the others are what people type.
FAMILY_TEMPLATE = "This is a photo of {}."
TEMPLATES = {
    "en": ("a photo of a {}", "a photo of {}", "a picture of a {}", "an image of the {}", "a {}", "the {}", "{} emoji"),
    "de": ("ein Foto von {}", "ein Bild von {}", "Foto: {}", "{} Emoji"),
    "nl": ("een foto van {}", "een afbeelding van {}", "een {}"),
    "fr": ("une photo de {}", "une image de {}", "photo : {}"),
    "es": ("una foto de {}", "una imagen de {}", "foto: {}"),
    "pt": ("uma foto de {}", "uma imagem de {}", "foto: {}"),
    "it": ("una foto di {}", "un'immagine di {}", "foto: {}"),
    "ru": ("фото: {}", "фотография {}", "картинка {}"),
    "uk": ("фото: {}", "світлина {}", "зображення {}"),
    "ar": ("صورة {}", "صورة: {}"),
    "zh": ("{}的照片", "一张{}的图片", "照片:{}"),
    "ja": ("{}の写真", "{}の画像", "{}の絵"),
    "ko": ("{} 사진", "{}의 사진", "{} 그림"),
}

SHARED_KEYWORD_LIMIT = 8  # a keyword of more concepts than this ("face", "food") says too little to search with
HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Concept:
    emoji: str  # gallery picture
    pictures: tuple[str, ...]  # all emoji whose pictures show this concept
    english: str  # CLDR short name
    names: dict[str, str]  # language -> CLDR short name
    keywords: dict[str, tuple[str, ...]]  # language -> further words, short name excluded

    @property
    def slug(self) -> str:
        """File-name form of the English name: "hot beverage" -> "hot_beverage"."""
        plain = unicodedata.normalize("NFKD", self.english.lower()).encode("ascii", "ignore").decode()
        return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def read_annotations(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """One CLDR annotation file -> (emoji -> short name, emoji -> keywords)."""
    names, keywords = {}, {}
    for node in ElementTree.parse(path).iter("annotation"):
        emoji, text = node.get("cp"), (node.text or "").strip()
        if node.get("type") == "tts":
            names[emoji] = text
        else:
            keywords[emoji] = [word.strip() for word in text.split("|")]
    return names, keywords


def load_concepts(cldr: Path = CLDR_FOLDER) -> list[Concept]:
    """All concepts that have a name in every language, in the order of `EMOJI`."""
    annotations = {language: read_annotations(cldr / f"{language}.xml") for language in LANGUAGES}
    concepts = []
    for entry in " ".join(EMOJI.values()).split():
        named = entry[-1]
        if any(named not in names for names, _ in annotations.values()):
            continue
        keywords = {}
        for language, (names, words) in annotations.items():
            own = (word for emoji in entry for word in (names.get(emoji, ""), *words.get(emoji, ())))
            keywords[language] = tuple(dict.fromkeys(word for word in own if word and word != names[named]))
        names = {language: annotations[language][0][named] for language in LANGUAGES}
        concepts.append(Concept(entry[0], tuple(entry), names["en"], names, keywords))
    return drop_vague_keywords(concepts)


def drop_vague_keywords(concepts: list[Concept]) -> list[Concept]:
    """Keep only keywords that at most `SHARED_KEYWORD_LIMIT` concepts of a language share."""
    users: dict[tuple[str, str], int] = {}
    for concept in concepts:
        for language, words in concept.keywords.items():
            for word in {word.lower() for word in words} | {concept.names[language].lower()}:
                users[language, word] = users.get((language, word), 0) + 1
    kept = []
    for concept in concepts:
        keywords = {
            language: tuple(w for w in words if users[language, w.lower()] <= SHARED_KEYWORD_LIMIT)
            for language, words in concept.keywords.items()
        }
        kept.append(Concept(concept.emoji, concept.pictures, concept.english, concept.names, keywords))
    return kept


def is_held_out(concept: Concept, language: str) -> bool:
    """Whether training sees no word of this language for this concept (never so for English, the demo language)."""
    if language == "en":
        return False
    return zlib.crc32(f"{concept.emoji}/{language}".encode()) % HELD_OUT_ONE_IN == 0
