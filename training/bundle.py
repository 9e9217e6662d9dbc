"""Everything beside the weights that the package ships: pictures, demo queries, licences.

The demo is written only if the trained model answers all of it rightly, in float16 and with 4-bit weights.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from artwork import NOTO_FONT, noto_bitmap
from concepts import FAMILY_TEMPLATE
from PIL import Image
from release import write_json
from torch_vectors import TorchVectors

DOCUMENTATION = Path("/usr/share/doc")
APACHE = Path("/usr/share/common-licenses/Apache-2.0")
CANVAS = (144, 144)  # the font's bitmaps fit unscaled, and unscaled they compress best

# File name -> emoji. Common English words instead of CLDR names ("automobile"), as users would name files.
PICTURES = {
    "alarm_clock": "⏰",
    "airplane": "✈",
    "avocado": "🥑",
    "balloon": "🎈",
    "banana": "🍌",
    "bicycle": "🚲",
    "books": "📚",
    "butterfly": "🦋",
    "cactus": "🌵",
    "camera": "📷",
    "car": "🚗",
    "castle": "🏰",
    "cat": "🐱",
    "coffee": "☕",
    "dog": "🐶",
    "doughnut": "🍩",
    "elephant": "🐘",
    "fox": "🦊",
    "frog": "🐸",
    "guitar": "🎸",
    "hamburger": "🍔",
    "house": "🏠",
    "key": "🔑",
    "lion": "🦁",
    "mushroom": "🍄",
    "octopus": "🐙",
    "owl": "🦉",
    "penguin": "🐧",
    "pizza": "🍕",
    "rainbow": "🌈",
    "red_apple": "🍎",
    "robot": "🤖",
    "rocket": "🚀",
    "sailboat": "⛵",
    "scissors": "✂",
    "snowman": "☃",
    "soccer_ball": "⚽",
    "strawberry": "🍓",
    "sunflower": "🌻",
    "trumpet": "🎺",
    "umbrella": "☂",
    "whale": "🐳",
}
# Some pictures are not square and not on white, as real ones are not: name -> canvas size, colour.
SCENES = {
    "rocket": ((150, 220), (24, 28, 60)),
    "sailboat": ((240, 160), (196, 226, 245)),
    "whale": ((230, 150), (214, 238, 250)),
    "fox": ((220, 160), (226, 240, 214)),
    "sunflower": ((140, 190), (222, 240, 252)),
}

QUERIES = (
    ("pizza", "en", "pizza"),
    ("a photo of a cat", "en", "cat"),
    ("Hund", "de", "dog"),
    ("guitare", "fr", "guitar"),
    ("cohete", "es", "rocket"),
    ("guarda-chuva", "pt", "umbrella"),
    ("farfalla", "it", "butterfly"),
    ("пингвин", "ru", "penguin"),
    ("بومة", "ar", "owl"),
    ("彩虹", "zh", "rainbow"),
    ("タコ", "ja", "octopus"),
    ("빨간 사과", "ko", "red_apple"),
)
ABSENT = (("piano", "en"),)  # the model knows what it is, and that no picture here shows it
LIKELY = 0.1  # more than any picture may have for those
QUESTIONS = (
    ("cat", ("cat", "dog", "car", "pizza", "house", "tree")),
    ("rocket", ("airplane", "rocket", "sailboat", "bicycle", "car")),
)


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, emoji in PICTURES.items():
        bitmap = noto_bitmap(emoji)
        size, colour = SCENES.get(name, (CANVAS, None))
        picture = Image.new("RGBA", size, (*colour, 255) if colour else (0, 0, 0, 0))
        picture.alpha_composite(bitmap, ((size[0] - bitmap.width) // 2, (size[1] - bitmap.height) // 2))
        if colour:
            picture = picture.convert("RGB")
        picture.save(folder / f"{name}.png", optimize=True)
    licence = (
        f"The pictures in this folder were rendered from Noto Color Emoji ({NOTO_FONT.name}) as packaged by\n"
        "Debian. What Debian states about its copyright and licences follows, then the Apache License.\n\n"
    )
    debian = (DOCUMENTATION / "fonts-noto-color-emoji/copyright").read_text()
    (folder / "LICENSE-NOTO.txt").write_text(licence + debian + "\n\n" + APACHE.read_text())


def write_data_licence(folder: Path) -> None:
    licence = (
        "The words that the tokenizer and the text tower learnt are short names and keywords of the Unicode CLDR,\n"
        "as packaged by Debian. What Debian states about their copyright and licence follows.\n\n"
    )
    debian = (DOCUMENTATION / "unicode-cldr-core/copyright").read_text()
    (folder / "LICENSE-CLDR.txt").write_text(licence + debian)


def opened(path: Path) -> Image.Image:
    """The way the package reads files: transparency over white."""
    picture = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def wrong_answers(vectors: TorchVectors, pictures: Path) -> list[str]:
    """One line per demo query or question that the model gets wrong; prints all scores."""
    names = list(PICTURES)
    gallery = vectors.image_vectors([opened(pictures / f"{name}.png") for name in names])
    wrong = []
    found = vectors.text_vectors([query for query, _, _ in QUERIES]) @ gallery.T
    for (query, _, expected), scores in zip(QUERIES, found, strict=True):
        best = np.argsort(-scores)[:3]
        print(f"{query:20}", "  ".join(f"{names[n]} {vectors.score(scores[n]):.3f}" for n in best))
        if names[best[0]] != expected:
            wrong.append(f"{query}: {names[best[0]]}, not {expected}")
    for (query, _), scores in zip(
        ABSENT, vectors.text_vectors([query for query, _ in ABSENT]) @ gallery.T, strict=True
    ):
        if (likely := vectors.score(scores.max())) > LIKELY:
            wrong.append(f"{query}: {names[int(scores.argmax())]} {likely:.3f}, though there is none")
    for name, labels in QUESTIONS:
        texts = vectors.text_vectors([FAMILY_TEMPLATE.format(label) for label in labels])
        scores = vectors.score(texts @ gallery[names.index(name)])
        print(f"{name + '.png':20}", "  ".join(f"{a} {s:.3f}" for a, s in zip(labels, scores, strict=True)))
        if labels[int(scores.argmax())] != name:
            wrong.append(f"{name}.png: {labels[int(scores.argmax())]}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder written by emoji_siglip2.py")
    parser.add_argument("--out", type=Path, required=True, help="gets pictures/ and demo.json")
    options = parser.parse_args()
    pictures = options.out / "pictures"
    write_pictures(pictures)
    write_data_licence(options.model)
    wrong = [
        f"{bits or 16} bit: {line}"
        for bits in (None, 8, 4)
        for line in wrong_answers(TorchVectors(options.model, bits), pictures)
    ]
    if wrong:
        sys.exit("demo.json not written:\n" + "\n".join(wrong))
    demo = {
        "searches": [{"query": q, "language": language, "expected": name} for q, language, name in QUERIES],
        "absent": [{"query": q, "language": language} for q, language in ABSENT],
        "classify": [
            {"picture": f"{name}.png", "labels": list(labels), "expected": name} for name, labels in QUESTIONS
        ],
    }
    write_json(options.out / "demo.json", demo)


if __name__ == "__main__":
    main()
