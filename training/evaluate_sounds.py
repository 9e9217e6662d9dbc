"""What a checkpoint for sounds knows, measured by the package itself on waves that training never saw.

    python training/evaluate_sounds.py --model mlx_mm/bundled/sounds-clap

All parameters of the waves are drawn from the parts of their ranges that are held out (clap_signals.HELD_OUT), with
other seeds, rooms, levels and noise. The waves go through the checkpoint's own processor.
"""

import argparse
from collections.abc import Callable

import numpy as np
from clap_carriers import HELD_OUT_CARRIERS
from clap_clips import held_out_mixture, held_out_single
from clap_signals import RATE
from clap_texts import JOINTS, LANGUAGES, NAMES, PHRASES, TEMPLATES, is_held_out

TextVectors = Callable[[list[str]], np.ndarray]
AudioVectors = Callable[[list[np.ndarray]], np.ndarray]
LABELS = [phrases["en"][0] for phrases in PHRASES]


def measure(text_vectors: TextVectors, audio_vectors: AudioVectors, each: int, mixtures: int, template: str) -> None:
    """Print all figures, as Markdown tables; vectors must be normalised."""
    truth = np.repeat(np.arange(len(NAMES)), each)
    singles = audio_vectors([held_out_single(sound, k % each) for k, sound in enumerate(truth)])
    labels = text_vectors([template.format(label) for label in LABELS])
    found = (singles @ labels.T).argmax(1)
    print("| sounds | % |\n|---|---|")
    print(f"| {len(truth)} single sounds, right of {len(NAMES)} names | {100 * np.mean(found == truth):.1f} |")
    vectors, pairs = {}, {}
    for held_out in (False, True):
        waves, pairs[held_out] = zip(*(held_out_mixture(k, held_out) for k in range(mixtures)), strict=True)
        vectors[held_out] = audio_vectors(list(waves))
        best = np.argsort(-vectors[held_out] @ labels.T, axis=1)[:, :5]
        kind = "never trained together" if held_out else "trained together"
        for many in (2, 5):
            both = [set(pair) <= set(row[:many].tolist()) for pair, row in zip(pairs[held_out], best, strict=True)]
            print(f"| {mixtures} mixtures of sounds {kind}, both in the best {many} | {100 * np.mean(both):.1f} |")
    middle = np.stack([singles[truth == number].mean(0) for number in range(len(NAMES))])
    print_texts(text_vectors, middle)
    print_mixed_texts(text_vectors, vectors[True], pairs[True])
    wrong = sorted((np.mean(found[truth == n] == n), n) for n in range(len(NAMES)))
    print("\nleast known:")
    for share, number in wrong[:12]:
        others = [NAMES[n] for n in found[truth == number] if n != number]
        print(f"  {NAMES[number]} {share:.0%}, heard as", ", ".join(sorted(set(others))) or "nothing else")


def print_texts(text_vectors: TextVectors, middle: np.ndarray) -> None:
    """Texts that find the right sound among the mean vectors (sounds, dim) of all."""

    def right(cases: list[tuple[int, str]]) -> str:
        if not cases:
            return ""
        numbers, texts = zip(*cases, strict=True)
        return f"{100 * np.mean((text_vectors(list(texts)) @ middle.T).argmax(1) == np.array(numbers)):.0f}"

    rows: dict[str, list[str]] = {}
    for lang in LANGUAGES:
        seen = [n for n in range(len(NAMES)) if not is_held_out(n, lang)]
        hidden = [n for n in range(len(NAMES)) if is_held_out(n, lang)]
        first, new = ([(n, PHRASES[n][lang][k]) for n in seen] for k in (0, -1))
        rows.setdefault("phrase of training", []).append(right(first))
        framed = [(n, TEMPLATES[lang][-1].format(text)) for n, text in first]
        rows.setdefault("the same in a template never trained", []).append(right(framed))
        carried = [(n, frame.format(text)) for frame in HELD_OUT_CARRIERS[lang] for n, text in first]
        rows.setdefault("the same in four carriers never trained", []).append(right(carried))
        rows.setdefault("phrase never trained", []).append(right(new))
        carried = [(n, HELD_OUT_CARRIERS[lang][n % 4].format(text)) for n, text in new]
        rows.setdefault("phrase never trained in a carrier never trained", []).append(right(carried))
        rows.setdefault("sound never named in this language", []).append(
            right([(n, PHRASES[n][lang][0]) for n in hidden])
        )
    print("\n| text finds its sound, % | " + " | ".join(LANGUAGES) + " |\n" + "|---" * (len(LANGUAGES) + 1) + "|")
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def print_mixed_texts(text_vectors: TextVectors, vectors: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> None:
    """Texts of two sounds that find a mixture of just these among all mixtures, at 1 and among 5."""
    cells = []
    for lang in LANGUAGES:
        cases = [pair for pair in pairs if not any(is_held_out(n, lang) for n in pair)]
        joint = JOINTS[lang]
        texts = [joint[k % len(joint)].format(*(PHRASES[n][lang][0] for n in pair)) for k, pair in enumerate(cases)]
        best = np.argsort(-text_vectors(texts) @ vectors.T, axis=1)[:, :5]
        hits = [[set(pairs[n]) == set(pair) for n in row] for pair, row in zip(cases, best, strict=True)]
        cells.append(f"{100 * np.mean([h[0] for h in hits]):.0f} / {100 * np.mean([any(h) for h in hits]):.0f}")
    print(f"| text of two finds their mixture among {len(pairs)}, R@1 / R@5 | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder, original or converted by `mlx_mm convert`")
    parser.add_argument("--each", type=int, default=10, help="waves of each sound")
    parser.add_argument("--mixtures", type=int, default=200)
    options = parser.parse_args()

    from mlx_mm import encode_audio, encode_text, load

    model, processor = load(options.model)

    def text_vectors(texts: list[str]) -> np.ndarray:
        return encode_text(model, processor, texts)

    def audio_vectors(waves: list[np.ndarray]) -> np.ndarray:
        return encode_audio(model, processor, [(wave[: 10 * RATE], RATE) for wave in waves])

    measure(text_vectors, audio_vectors, options.each, options.mixtures, model.prompt_template)


if __name__ == "__main__":
    main()
