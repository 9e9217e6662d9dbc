"""Training texts about sounds: phrases in templates or bare, about one sound or two, and texts about no sound."""

import clap_tone_words
import clap_tones
import clap_world
import clap_world_words
import numpy as np
import torch
from clap_carriers import carry, unknown_word
from clap_signals import Draw
from clap_towers import TEXT_LENGTH, VOCABULARY
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SOUNDS = {make.__name__: make for make in (*clap_tones.SOUNDS, *clap_world.SOUNDS)}
NAMES = tuple(SOUNDS)
LANGUAGES = ("en", "de", "fr", "es", "zh", "ja")
FAMILY_TEMPLATE = "This is a sound of {}."
# The last template and the last joint of each language are held out from training.
TEMPLATES = {
    "en": ("the sound of {}", "a recording of {}", "I hear {}", "{} can be heard", "you can hear {} here"),
    "de": ("Geräusch: {}", "Aufnahme: {}", "man hört {}", "hier hört man {}"),
    "fr": ("son : {}", "on entend {}", "un enregistrement : {}", "ici on entend {}"),
    "es": ("sonido: {}", "se oye {}", "una grabación: {}", "aquí se oye {}"),
    "zh": ("{}的声音", "听到{}", "录音：{}", "这里有{}的录音"),
    "ja": ("{}の音", "{}が聞こえる", "録音：{}", "ここで{}が聞こえる"),
}
JOINTS = {
    "en": ("{} over {}", "{} with {}", "{} and {}", "{} during {}", "{} while there is {}", "{} together with {}"),
    "de": ("{} und {}", "{} mit {}", "{} über {}", "{}, dazu {}", "{} zusammen mit {}"),
    "fr": ("{} et {}", "{} avec {}", "{} sur fond de {}", "{} accompagné de {}"),
    "es": ("{} y {}", "{} con {}", "{} sobre {}", "{} junto con {}"),
    "zh": ("{}和{}", "{}与{}", "{}，还有{}", "{}以及{}"),
    "ja": ("{}と{}", "{}に{}が重なる", "{}、そして{}", "{}ならびに{}"),
}
# Things that are no sound of these, so that the text tower does not hear one in every word.
OTHERS = (
    *("a table; a chair; a photo; a red apple; bread; cheese; a mountain; a shirt; money; a book; a river bank; a pen"),
    *("; the colour blue; a flower; a tree; a shoe; a lamp; a map; a letter; an egg; a potato; sugar; snow; the moon"),
    *("; a star; a planet; a finger; a face; an eye; a hat; a key; a box; a bottle; a knife; a spoon; a plate; a sofa"),
    *("; a bed; a pillow; a picture of a house; a road; a bridge; a village; a teacher; a doctor; a child; a family"),
    *("; happiness; a dream; politics; history; a law court; a price; a ticket; a holiday; a birthday; a garden"),
    *("; a lizard; a horse; an elephant; a fish; a butterfly; a rabbit; a carrot; a banana; a cake; chocolate; soup"),
    *("; ein Tisch; ein Stuhl; ein Apfel; Brot; ein Berg; ein Hemd; Geld; ein Buch; eine Blume; ein Baum; ein Schuh"),
    *("; ein Brief; ein Ei; Zucker; der Mond; ein Schlüssel; ein Haus; eine Straße; ein Lehrer; ein Kind; ein Traum"),
    *("; une table; une chaise; une pomme; du pain; une montagne; de l'argent; un livre; une fleur; un arbre; la lune"),
    *("; une lettre; un œuf; du sucre; une clé; une maison; une rue; un enfant; un rêve; un cheval; un poisson"),
    *("; una mesa; una silla; una manzana; pan; una montaña; dinero; un libro; una flor; un árbol; la luna; una carta"),
    *("; un huevo; azúcar; una llave; una casa; una calle; un niño; un sueño; un caballo; un pez; un zapato"),
    *("; 桌子; 椅子; 苹果; 面包; 山; 钱; 书; 花; 树; 月亮; 信; 鸡蛋; 糖; 钥匙; 房子; 街道; 孩子; 梦; 马; 鱼; 鞋子"),
    *("; 机; りんご; パン; 山; お金; 本; 花; 木; 月; 手紙; 卵; 砂糖; 鍵; 家; 道; 子供; 夢; 馬; 魚; 靴; 写真; 椅子"),
)


def split(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split(";"))


PHRASES = [
    {lang: split(text) for lang, text in words[name].items()}
    for words, module in ((clap_tone_words.WORDS, clap_tones), (clap_world_words.WORDS, clap_world))
    for name in (make.__name__ for make in module.SOUNDS)
]


def is_held_out(sound: int, language: str) -> bool:
    """One (sound, language) pair in 16, English excepted: training sees no phrase of it."""
    place = LANGUAGES.index(language)
    return place > 0 and (5 * sound + 3 * place) % 16 == 0


def is_held_out_pair(first: int, second: int) -> bool:
    """One pair of sounds in seven is never trained together, neither as a mixture nor in a text."""
    return (first + second) % 7 == 0


def draw_pair(rng: np.random.Generator, held_out: bool = False) -> tuple[int, int]:
    while True:
        first, second = (int(n) for n in rng.choice(len(NAMES), 2, replace=False))
        if is_held_out_pair(first, second) == held_out:
            return first, second


def make_wave(sound: int, draw: Draw) -> np.ndarray:
    return SOUNDS[NAMES[sound]](draw)


class Texts:
    """Draws training texts with what they say; carried: share of them that stand among words that say nothing of it."""

    def __init__(self, tokenizer: Tokenizer, carried: float = 0):
        self.tokenizer, self.carried = tokenizer, carried
        self.others = split("".join(OTHERS))
        self.pieces = [piece.replace("Ġ", " ") for piece in tokenizer.get_vocab() if not piece.startswith("<")]
        self.pieces = [piece for piece in self.pieces if piece.isascii()]

    def draw(self, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ids and mask (B, L), and truth (B, sounds): shares that sum to 1, all alike for texts about no sound."""
        texts, truth = [], torch.zeros(count, len(NAMES))
        for row in range(count):
            text, sounds = self._one_that_fits(rng)
            texts.append(text)
            truth[row, list(sounds)] = 1 / len(sounds)
        return *encode(self.tokenizer, texts), truth

    def _one_that_fits(self, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
        while True:
            chance = rng.random()
            if chance < (0.25 if self.carried else 0.12):
                text, sounds = self._other(rng), tuple(range(len(NAMES)))
            elif chance < 0.4:
                sounds = draw_pair(rng)
                text = two(sounds, rng, self.carried)
            else:
                sounds = (int(rng.integers(len(NAMES))),)
                text = one(sounds[0], rng, self.carried)
            if len(self.tokenizer.encode(text).ids) <= TEXT_LENGTH:
                return text, sounds

    def _other(self, rng: np.random.Generator) -> str:
        language = LANGUAGES[rng.integers(len(LANGUAGES))]
        unknown = rng.random() < 0.4
        if unknown and not self.carried:
            return "".join(self.pieces[n] for n in rng.integers(len(self.pieces), size=rng.integers(1, 6))).strip()
        if unknown:  # no such pieces: with a sound's name among them they would teach that it means nothing
            gap = "" if language in ("zh", "ja") else " "
            words = gap.join(unknown_word(language, rng) for _ in range(rng.integers(1, 4)))
        else:
            words = self.others[rng.integers(len(self.others))]
        return in_template(words, language, rng, self.carried)


def phrase(sound: int, language: str, rng: np.random.Generator) -> str:
    known = PHRASES[sound][language][:-1]
    return known[rng.integers(len(known))]


def in_template(words: str, language: str, rng: np.random.Generator, carried: float) -> str:
    if rng.random() < carried:
        return carry(words, language, rng)
    chance = rng.random()
    if chance < 0.5:
        return words
    if chance < 0.65:
        return FAMILY_TEMPLATE.format(words)
    templates = TEMPLATES[language][:-1]
    return templates[rng.integers(len(templates))].format(words)


def one(sound: int, rng: np.random.Generator, carried: float = 0) -> str:
    languages = [language for language in LANGUAGES if not is_held_out(sound, language)]
    language = languages[rng.integers(len(languages))]
    words = phrase(sound, language, rng)
    return in_template(without_article(words) if rng.random() < 0.15 else words, language, rng, carried)


def two(pair: tuple[int, int], rng: np.random.Generator, carried: float = 0) -> str:
    languages = [lang for lang in LANGUAGES if not any(is_held_out(sound, lang) for sound in pair)]
    language = languages[rng.integers(len(languages))]
    joints = JOINTS[language][:-1]
    words = joints[rng.integers(len(joints))].format(*(phrase(sound, language, rng) for sound in pair))
    return in_template(words, language, rng, carried)


def without_article(words: str) -> str:
    head, _, rest = words.partition(" ")
    return rest if rest and head in ("a", "an", "the", "ein", "eine", "un", "une", "una", "le", "la", "el") else words


def learn_vocabulary() -> Tokenizer:
    """Byte-level BPE, lower-casing, with RoBERTa's special tokens and a space before the first word."""
    known = [
        words
        for number, phrases in enumerate(PHRASES)
        for language in LANGUAGES
        if not is_held_out(number, language)
        for words in phrases[language][:-1]
    ]
    frames = [t.replace("{}", " ") for lang in LANGUAGES for t in (*TEMPLATES[lang][:-1], *JOINTS[lang][:-1])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    others = split("".join(OTHERS))
    tokenizer.train_from_iterator([*known, *known, *others, *frames * 10, FAMILY_TEMPLATE.format("") * 10], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask (B, L), padded to the longest, cut so that the end token stays."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    rows = [ids if len(ids) <= TEXT_LENGTH else [*ids[: TEXT_LENGTH - 1], 2] for ids in rows]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
    return ids, (ids != 1).long()
