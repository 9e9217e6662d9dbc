"""Text-to-image retrieval figures of a checkpoint, per language.

    python training/evaluate.py --model mlx_mm/bundled/emoji-siglip2 --set evaluation

A query is a CLDR short name, the gallery all pictures of one artwork; R@k is the share of queries, in percent,
that find a right picture among the best k. `measure` knows nothing of the model but two functions.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from evaluation_set import CLEAN, DISTURBED, EvaluationSet, read_set
from PIL import Image

TextVectors = Callable[[list[str]], np.ndarray]
ImageVectors = Callable[[list[Image.Image]], np.ndarray]
Recall = tuple[float, float]  # at 1, at 5

SEEN, HELD_OUT = "seen names", "held-out names"
FREE_TEXT = "a photo of a {}"
ANSWERS = 10  # labels of the zero-shot question
NEW_WORDS = "of these, words in no other language"


def measure(
    text_vectors: TextVectors, image_vectors: ImageVectors, data: EvaluationSet
) -> dict[str, dict[str, Recall]]:
    """Row name -> language (and "mean") -> recall at 1 and 5 in percent; vectors must be normalised."""
    galleries = {name: image_vectors(pictures) for name, pictures in data.galleries.items()}
    table: dict[str, dict[str, Recall]] = {}
    for language, names in data.names.items():
        queries = text_vectors(names)
        hidden = set(data.held_out[language])
        seen = [number for number in range(len(names)) if number not in hidden]
        rows = {f"{SEEN}, {gallery}": (gallery, seen) for gallery in galleries}
        if hidden:
            rows[f"{HELD_OUT}, {CLEAN}"] = (CLEAN, sorted(hidden))
            rows[NEW_WORDS] = (CLEAN, [n for n in sorted(hidden) if not said_elsewhere(data, language, n)])
        for row, (gallery, numbers) in rows.items():
            ranks = best_ranks(queries @ galleries[gallery].T, names)[numbers]
            table.setdefault(row, {})[language] = recall(ranks)
    for row in table.values():
        row["mean"] = tuple(np.nanmean(list(row.values()), axis=0).tolist())
    free = text_vectors([FREE_TEXT.format(name) for name in data.english])
    ranks = best_ranks(free @ galleries[CLEAN].T, data.english)
    table[f'"{FREE_TEXT}", {CLEAN}'] = {"en": recall(ranks)}
    return table


def said_elsewhere(data: EvaluationSet, language: str, number: int) -> bool:
    """Whether another language uses the very same name ("pizza"), so that training saw it after all."""
    name = data.names[language][number].lower()
    return any(
        names[number].lower() == name and number not in data.held_out[other]
        for other, names in data.names.items()
        if other != language
    )


def best_ranks(scores: np.ndarray, names: list[str]) -> np.ndarray:
    """Rank (0 = first) of the best right picture for each query; concepts of one name are equally right."""
    lowered = np.array([name.lower() for name in names])
    right = lowered[:, None] == lowered[None]
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return ((scores > best) & ~right).sum(axis=1)


def recall(ranks: np.ndarray) -> Recall:
    if not len(ranks):
        return float("nan"), float("nan")
    return 100 * float((ranks < 1).mean()), 100 * float((ranks < 5).mean())


def zero_shot(text_vectors: TextVectors, image_vectors: ImageVectors, data: EvaluationSet, template: str) -> float:
    """Percent right when the English name competes with nine others chosen at random, on disturbed pictures."""
    rng = np.random.default_rng(0)
    labels = text_vectors([template.format(name) for name in data.english])
    scores = image_vectors(data.galleries[DISTURBED]) @ labels.T
    wins = 0
    for number in range(len(scores)):
        others = rng.choice(np.delete(np.arange(len(scores)), number), ANSWERS - 1, replace=False)
        wins += scores[number, number] > scores[number, others].max()
    return 100 * wins / len(scores)


def print_table(table: dict[str, dict[str, Recall]]) -> None:
    """Markdown: one line per row, "R@1 / R@5" per language."""
    languages = list(dict.fromkeys(language for row in table.values() for language in row))
    languages.sort(key=lambda language: language != "mean")
    print("| R@1 / R@5 | " + " | ".join(languages) + " |")
    print("|---" * (len(languages) + 1) + "|")
    for name, row in table.items():
        cells = [f"{row[lang][0]:.0f} / {row[lang][1]:.0f}" if lang in row else "" for lang in languages]
        if "mean" in row:
            cells[0] = f"{row['mean'][0]:.1f} / {row['mean'][1]:.1f}"
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Text-to-image retrieval figures of a checkpoint, per language.")
    parser.add_argument("--model", required=True, help="folder, original or converted by `mlx_mm convert`")
    parser.add_argument("--set", type=Path, default=Path("evaluation"), help="made by evaluation_set.py")
    options = parser.parse_args()

    from mlx_mm import encode_image, encode_text, load  # here, so that `measure` is usable without MLX

    model, processor = load(options.model)

    def text_vectors(texts: list[str]) -> np.ndarray:
        return encode_text(model, processor, texts)

    def image_vectors(pictures: list[Image.Image]) -> np.ndarray:
        return encode_image(model, processor, pictures)

    data = read_set(options.set)
    print_table(measure(text_vectors, image_vectors, data))
    share = zero_shot(text_vectors, image_vectors, data, model.prompt_template)
    print(f"\n{ANSWERS}-way zero-shot on disturbed pictures: {share:.1f} %")


if __name__ == "__main__":
    main()
