"""The fixed pictures and names the figures are measured on, as a folder of PNG files and one JSON file.

Writing it needs the artwork packages (README.md); reading it needs Pillow only, so that the figures can be
repeated with the package itself.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from artwork import HELD_OUT_ARTWORK, IconSet, disturbed, noto_picture, on_background
from concepts import CLDR_FOLDER, LANGUAGES, is_held_out, load_concepts
from PIL import Image

CLEAN, DISTURBED = "noto", "noto-disturbed"
GALLERIES = (CLEAN, DISTURBED, *HELD_OUT_ARTWORK)
NAMES_FILE = "names.json"


@dataclass(frozen=True)
class EvaluationSet:
    english: list[str]  # one name for each concept
    names: dict[str, list[str]]  # language -> name of each concept
    held_out: dict[str, list[int]]  # language -> concepts whose words in this language training never saw
    galleries: dict[str, list[Image.Image]]  # gallery -> picture of each concept


def write_set(folder: Path, artwork: Path, cldr: Path = CLDR_FOLDER) -> None:
    concepts = load_concepts(cldr)
    icon_sets = {name: IconSet(artwork / name) for name in HELD_OUT_ARTWORK}
    for gallery in GALLERIES:
        (folder / gallery).mkdir(parents=True, exist_ok=True)
    for number, concept in enumerate(concepts):
        noto = noto_picture(concept.emoji, size=136)
        pictures = {CLEAN: on_background(noto), DISTURBED: disturbed(noto, seed=number)}
        for name, icons in icon_sets.items():
            english = concept.english if concept.emoji == concept.pictures[-1] else ""
            pictures[name] = on_background(icons.picture(concept.emoji, english, size=136))
        for gallery, picture in pictures.items():
            picture.save(folder / gallery / f"{number:03}.png")
    content = {
        "english": [concept.english for concept in concepts],
        "names": {lang: [concept.names[lang] for concept in concepts] for lang in LANGUAGES},
        "held_out": {
            lang: [n for n, concept in enumerate(concepts) if is_held_out(concept, lang)] for lang in LANGUAGES
        },
    }
    (folder / NAMES_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n")


def read_set(folder: Path) -> EvaluationSet:
    content = json.loads((folder / NAMES_FILE).read_text())
    galleries = {}
    for gallery in GALLERIES:
        paths = [folder / gallery / f"{number:03}.png" for number in range(len(content["english"]))]
        galleries[gallery] = [Image.open(path).convert("RGB") for path in paths]
    return EvaluationSet(galleries=galleries, **content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the evaluation set.")
    parser.add_argument("--artwork", type=Path, default=Path("artwork"), help="folder of unpacked icon packages")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="folder to write")
    options = parser.parse_args()
    write_set(options.out, options.artwork)
