"""The emoji that the chat model knows, its languages, and what its training leaves out to be measured."""

import zlib

from concepts import Concept, load_concepts

LANGUAGES = ("en", "de", "fr", "es", "it", "zh")

# Distinct at 28 pixels, with short names in every language and drawn in at least three of the designs trained on.
EMOJI = """
    🐱🐈 🐶🐕 🐭🐁 🐰🐇 🐮🐄 🐷🐖 🐵🐒 🐴🐎 🐯🐅 🐳🐋 🐲🐉 🦊 🐻 🐼 🐨 🦁 🐸 🐹 🐺 🐔 🐧 🐦 🦆 🦅 🦉 🦇 🦄 🐝 🐛
    🦋 🐌 🐞 🐜 🕷 🦂 🐢 🐍 🐙 🦐 🦀 🐟 🐬 🦈 🐊 🦍 🐘 🦏 🐫 🐑 🐐 🦌 🕊 🌵 🌴 🍄 🌷 🌹 🌻 🍇 🍉 🍋 🍌 🍍 🍎 🍏
    🍐 🍑 🍒 🍓 🍅 🥑 🍆 🥕 🌶 🥒 🥜 🥐 🍔 🍟 🍕 🌮 🥚 🍿 🍝 🍣 🍩 🍪 🍭 🍼 ☕ 🥄 🤖 👽 👻 💀 ❤ 💙 💚 💜 💯 💣
    ☀ 🌈 ☁ ☃ ⚡ 🔥 💧 ☂ 🚗 🚕 🚌 🚑 🚜 🚲 🏍 🚁 ✈ 🚀 ⛵ 🚢 ⚓ 🏠 🏰 ⛲ 🌋 🗿 ⚽ 🏆 🎲 🎈 🎁 🎀 🎸 🎺 🎷 🎻
    🥁 🎤 🎧 🎬 ⌚ ⌨ 💿 📷 📺 ☎ 🔋 💡 🔦 🕯 🔨 ⚙ 🔬 🔭 💉 💊 🚪 🪟 🛏 🚽 🛁 🔑 ⏰ 📦 ✉ 📚 📖 📰 ✏ 🖌 ✂ 📎
    📌 📅 👑 👕 👖 👗 💍 🛡 🔔 📣
"""

# CLDR's names where people say something else.
PLAIN = {
    "🚗": {"en": "car", "de": "Auto", "fr": "voiture", "es": "coche", "it": "auto", "zh": "汽车"},
    "☕": {"en": "coffee", "de": "Kaffee", "fr": "café", "es": "café", "it": "caffè", "zh": "咖啡"},
    "🐝": {"en": "bee"},
    "🐞": {"en": "ladybug"},
    "🐑": {"en": "sheep", "zh": "羊"},
    "🐫": {"en": "camel", "zh": "骆驼"},
    "🦁": {"fr": "lion"},
    "🎁": {"en": "gift"},
    "🎲": {"en": "die", "de": "Würfel", "fr": "dé"},
    "🎀": {"de": "Schleife"},
    "✉": {"en": "letter", "de": "Brief"},
    "📚": {"de": "Bücher"},
    "🎧": {"en": "headphones"},
    "❤": {"en": "red heart"},
    "🤖": {"it": "robot"},
    "☃": {"de": "Schneemann", "es": "muñeco de nieve"},
    "⚽": {"fr": "ballon", "es": "balón", "it": "pallone"},
    "📷": {"es": "cámara"},
    "⏰": {"es": "despertador"},
    "🍄": {"de": "Pilz"},
}


def chat_concepts() -> list[Concept]:
    """Those of `EMOJI`, in its order, with plain names."""
    known = {concept.emoji: concept for concept in load_concepts()}
    found = []
    for entry in EMOJI.split():
        concept = known.get(entry[0])
        if concept is not None:
            names = {language: concept.names[language] for language in LANGUAGES} | PLAIN.get(entry[0], {})
            found.append(Concept(concept.emoji, concept.pictures, names["en"], names, {}))
    return found


def _one_in(count: int, *parts: object) -> bool:
    return zlib.crc32("/".join(map(str, parts)).encode()) % count == 0


def pair_left_out(concept: Concept, language: str) -> bool:
    """Whether training never shows a picture of this concept with its name in this language.

    Texts alone do: "What is cat in French?" So the name can be known, and has to be put to the picture.
    """
    return language != "en" and _one_in(16, "name", concept.emoji, language)


def count_left_out(concept: Concept, count: int) -> bool:
    """Whether training never shows so many of this concept."""
    return count > 1 and _one_in(8, "count", concept.emoji, count)


def sides_left_out(left: Concept, right: Concept) -> bool:
    """Whether training never shows these two beside each other, in whichever order."""
    return _one_in(8, "sides", *sorted((left.emoji, right.emoji)))
