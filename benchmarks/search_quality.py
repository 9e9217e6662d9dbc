"""How well searches find what is there, and say when nothing is: the tables of docs/index.md, "When nothing fits".

Indexes pictures of the bundled model's vocabulary, and asks for each of its names in 13 languages: of what is in the
index (present) and of what is not (absent), and for things that no emoji shows. The pictures and names are those of
`training/evaluation_set.py`. On `noto` and the names that training knew the cutoff was chosen; the last table is of
what had no part in that: designs and names that training never saw, concepts that are not bundled, and other texts.
"""

import argparse
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import mlx_mm
from mlx_mm.search.cutoffs import DEVIATIONS, NEUTRAL
from mlx_mm.search.records import Hits

TOP = 5
Z = 3.0  # of a cutoff by standard scores, for comparison
# What the bundled pictures show, where the first name of the concept is another one
OTHER_NAMES = {"car": "automobile", "coffee": "hot beverage"}
# Nothing that a picture of one thing on plain ground shows
UNLIKE = (
    *("tax return", "quarterly report", "a board meeting in Frankfurt", "medieval philosophy", "mortgage rates"),
    *("the fall of the Roman empire", "insurance claim form", "a crowded commuter train at night", "tire pressure"),
    *("Steuererklärung", "Betriebsversammlung", "Mietvertrag von 2019", "Arbeitslosenquote", "belastingaangifte"),
    *("déclaration d'impôts", "réunion du conseil", "taux d'intérêt", "declaración de la renta", "reunión de vecinos"),
    *("contrato de arrendamento", "taxa de juros", "dichiarazione dei redditi", "riunione di condominio"),
    *("налоговая декларация", "собрание акционеров", "податкова декларація", "договір оренди"),
    *(
        "إقرار ضريبي",
        "اجتماع مجلس الإدارة",
        "纳税申报表",
        "董事会会议",
        "确定申告書",
        "取締役会",
        "세금 신고서",
        "이사회 회의",
    ),
)

# The same, written after the cutoff was chosen, and kept whatever was found with them
UNLIKE_HELD_OUT = (
    *("electricity bill", "parking permit", "warranty card", "class of 1998", "screenshot of an error message"),
    *("living room before the renovation", "whiteboard after the workshop", "wallpaper samples", "spare parts list"),
    *("Kontoauszug", "Elternabend", "Heizkostenabrechnung", "onderhoudscontract", "jaarverslag", "relevé bancaire"),
    *("conseil de classe", "acta notarial", "factura de la comunidad", "extrato bancário", "reunião de pais"),
    *("verbale di assemblea", "estratto conto", "выписка из банка", "родительское собрание", "протокол зборів"),
    *(
        "рахунок за опалення",
        "كشف حساب",
        "محضر الاجتماع",
        "银行对账单",
        "家长会",
        "議事録",
        "保証書",
        "회의록",
        "보증서",
    ),
)
HELD_OUT_DESIGNS = ("twemoji", "openmoji")
INDEXES = 4  # of chance, of each
HELD_OUT_NAMES = ("names that training knew", "names that it did not", "no emoji")


@dataclass
class Counts:
    """Of several queries. own: those of present things whose picture is shown; shown: pictures of present queries;
    false_alarms: absent queries that show something; strangers: what these show."""

    present: int = 0
    first: int = 0
    in_five: int = 0
    absent: int = 0
    own: dict[str, int] = field(default_factory=dict)
    shown: dict[str, int] = field(default_factory=dict)
    false_alarms: dict[str, int] = field(default_factory=dict)
    strangers: dict[str, int] = field(default_factory=dict)

    def add(self, hits: Hits, right: set[str]) -> None:
        names = [Path(hit.path).name for hit in hits]
        fits = [name for name, hit in zip(names, hits, strict=True) if (hit.z or 0) >= Z]
        self.count(names, fits, [name for name, hit in zip(names, hits, strict=True) if hit.strong], right)

    def count(self, names: list[str], above: list[str], strong: list[str], right: set[str]) -> None:
        """names: all, the best first; above: those with a standard score of Z."""
        self.present += bool(right)
        self.absent += not right
        self.first += names[0] in right if names else 0
        self.in_five += bool(right & set(names[:TOP]))
        for rule, shown in {"none": names[:TOP], f"z ≥ {Z:g}": above, "cutoff": strong}.items():
            found = len(right & set(shown))
            for counts, more in (
                (self.own, found > 0),
                (self.shown, len(shown) if right else 0),
                (self.false_alarms, bool(shown) and not right),
                (self.strangers, 0 if right else len(shown)),
            ):
                counts[rule] = counts.get(rule, 0) + int(more)

    def cells(self, rule: str) -> list[str]:
        """Recall and precision of what is shown for present things; false alarms and strangers for absent ones."""
        return [
            percent(self.own[rule], self.present),
            percent(self.own[rule], self.shown[rule]),
            percent(self.false_alarms[rule], self.absent),
            f"{self.strangers[rule] / max(1, self.absent):.2f}",
        ]


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def row(cells: Sequence[object]) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def table(columns: Sequence[str]) -> None:
    print()
    row(columns)
    row(["---"] * len(columns))


def index_of(folder: Path, pictures: dict[str, Path]) -> mlx_mm.Index:
    """An index of pictures under names that say nothing."""
    folder.mkdir()
    for name, picture in pictures.items():
        shutil.copy(picture, folder / name)
    index = mlx_mm.Index(folder / "a.mmindex", "emoji-siglip2")
    index.refresh(folder)
    return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path, help="folder that training/evaluation_set.py wrote")
    parser.add_argument("--every", type=int, default=1, help="ask for each n-th absent thing only")
    options = parser.parse_args()
    content = json.loads((options.evaluation / "names.json").read_text())
    warnings.simplefilter("ignore", UserWarning)  # of names that are cut at 16 tokens
    queries = [
        (language, number, name)
        for language, names in content["names"].items()
        for number, name in enumerate(names)
        if number not in set(content["held_out"][language])
    ]
    concepts = {name.replace(" ", "_"): number for number, name in enumerate(content["english"])}
    bundled = sorted((Path(mlx_mm.__file__).parent / "bundled" / "pictures").glob("*.png"))
    number_of = {path: concepts[OTHER_NAMES.get(path.stem, path.stem).replace(" ", "_")] for path in bundled}
    with tempfile.TemporaryDirectory() as place:
        pictures = {f"{number:03}.png": path for path, number in number_of.items()}
        with index_of(Path(place) / "bundled", pictures) as index:
            by_language(index, queries, set(number_of.values()), options.every)
            of_examples(index, options.evaluation, set(number_of.values()))
        sizes(Path(place), options.evaluation, queries, len(content["english"]), options.every)
        held_out(Path(place), options.evaluation, content, set(number_of.values()))


def by_language(index: mlx_mm.Index, queries: list[tuple[str, int, str]], there: set[int], every: int) -> None:
    whole, counts = Counts(), dict[str, Counts]()
    for language, number, name in queries:
        if number in there or number % every == 0:
            hits = index.search(name, strong_only=False, top=42)
            for some in (whole, counts.setdefault(language, Counts())):
                some.add(hits, {f"{number:03}.png"} if number in there else set())
    unlike = Counts()
    for text in UNLIKE:
        unlike.add(index.search(text, strong_only=False, top=42), set())
    print(f"42 bundled pictures, {whole.present} queries for present things, {whole.absent} for absent ones,")
    print(f"{unlike.absent} for things that no emoji shows")
    table(("cutoff", "recall", "precision", "absent: false alarms", "strangers", "no emoji: false alarms", "strangers"))
    for rule in whole.own:
        row([rule, *whole.cells(rule), *unlike.cells(rule)[2:]])
    table(("language", "R@1", "R@5", "recall", "precision", "false alarms", "strangers"))
    for language, some in (counts | {"all": whole}).items():
        found = [percent(some.first, some.present), percent(some.in_five, some.present)]
        row([language, *found, *some.cells("cutoff")])


def of_examples(index: mlx_mm.Index, evaluation: Path, there: set[int]) -> None:
    """Turned, shrunk, recoloured pictures on another ground, as examples."""
    counts = Counts()
    for path in sorted((evaluation / "noto-disturbed").glob("*.png")):
        right = {path.name} if int(path.stem) in there else set()
        counts.add(index.search(like=path, strong_only=False, top=42), right)
    table(("examples: cutoff", "R@1", "R@5", "recall", "precision", "false alarms", "strangers"))
    for rule in counts.own:
        found = [percent(counts.first, counts.present), percent(counts.in_five, counts.present)]
        row([rule, *found, *counts.cells(rule)])


def sizes(place: Path, evaluation: Path, queries: list[tuple[str, int, str]], total: int, every: int) -> None:
    """Indexes of chance, of 1 picture up to half of all."""
    table(("pictures", "indexes", "R@1", "R@5", "recall", "precision", "false alarms", "strangers"))
    for size, several in ((1, 8), (5, 4), (20, 2), (280, 1)):
        counts = Counts()
        for seed in range(several):
            there = set(np.random.default_rng(seed).choice(total, size, replace=False).tolist())
            pictures = {f"{number:03}.png": evaluation / "noto" / f"{number:03}.png" for number in there}
            with index_of(place / f"{size}-{seed}", pictures) as index:
                for _, number, name in queries:
                    if (number in there and (size < 100 or number % every == 0)) or number % (every * 4) == 1:
                        hits = index.search(name, strong_only=False, top=20)
                        counts.add(hits, {f"{number:03}.png"} if number in there else set())
        found = [percent(counts.first, counts.present), percent(counts.in_five, counts.present)]
        row([size, several, *found, *counts.cells("cutoff")])


def held_out(place: Path, evaluation: Path, content: dict[str, Any], bundled: set[int]) -> None:
    """What the cutoff was not chosen on: 42 concepts that are not bundled, in designs that training never saw, asked
    for by names that training knew, and by those that it did not. All texts are encoded at once, which takes a tenth of
    the time; that searches say the same is seen of some of them."""
    loaded = mlx_mm.load("emoji-siglip2")
    names = [(language, number) for language in content["names"] for number in range(len(content["english"]))]
    texts = [*(content["names"][language][number] for language, number in names), *UNLIKE_HELD_OUT]
    vectors, neutral = (mlx_mm.encode_text(*loaded, some) for some in (texts, list(NEUTRAL)))
    others = [number for number in range(len(content["english"])) if number not in bundled]
    table(("held out", "shown", "recall", "precision", "false alarms", "strangers", "no emoji: false alarms"))
    for design in HELD_OUT_DESIGNS:
        counts = {name: Counts() for name in HELD_OUT_NAMES}
        for seed in range(INDEXES):
            there = np.random.default_rng(seed).choice(others, len(bundled), replace=False).tolist()
            pictures = {f"{number:03}.png": evaluation / design / f"{number:03}.png" for number in there}
            with index_of(place / f"{design}-{seed}", pictures) as index:
                ranks = rankings(index, vectors, neutral)
                for place_of, (text, (order, above, strong)) in enumerate(zip(texts, ranks, strict=True)):
                    what, right = HELD_OUT_NAMES[2], set[str]()
                    if place_of < len(names):
                        language, number = names[place_of]
                        what = HELD_OUT_NAMES[number in content["held_out"][language]]
                        right = {f"{number:03}.png"} if number in there else right
                    counts[what].count(order, above, strong, right)
                    if place_of % 997 == seed:
                        hits = index.search(text, strong_only=False, top=len(there))
                        assert {Path(hit.path).name for hit in hits if hit.strong} == set(strong), text
        for what in HELD_OUT_NAMES[:2]:
            some = counts[what]
            for rule in some.own:
                numbers = f"{design}, {what}: {some.present:,} present, {some.absent:,} absent"
                row([numbers, rule, *some.cells(rule), counts["no emoji"].cells(rule)[2]])
        print(f"{design}: {counts['no emoji'].absent} for things that no emoji shows")


def rankings(
    index: mlx_mm.Index, texts: npt.NDArray[np.float32], neutral: npt.NDArray[np.float32]
) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """For each text all names of an index, the best first; those with a standard score of Z; and the strong ones."""
    paths, vectors = index.vectors()
    names = np.array([Path(path).name for path in paths])
    reached = vectors @ neutral.T
    least = reached.mean(axis=1) + DEVIATIONS * reached.std(axis=1).mean()
    for cosines in texts @ vectors.T:
        order = np.argsort(-cosines)
        above = (cosines - cosines.mean()) / cosines.std() >= Z
        yield names[order].tolist(), names[above].tolist(), names[cosines >= least].tolist()


if __name__ == "__main__":
    main()
