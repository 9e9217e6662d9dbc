"""The short sounds that the package ships and the demo's queries for them.

    python training/bundle_sounds.py --model mlx_mm/bundled/sounds-clap --out mlx_mm/bundled

The queries are written only if the trained model answers all of them rightly, in 16, 8 and 4 bit.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from clap_signals import RATE, Draw, in_room
from clap_texts import NAMES, make_wave
from demo_parts import write_part

from mlx_mm import Index

STORED_RATE = 24_000  # of the files, in Hz
# File name -> sound of training, seed. Drawn from the parts of the ranges that training never saw.
SOUNDS = {
    "alarm_clock": ("alarm_clock", 1),
    "bell": ("church_bell", 1),
    "birds": ("birdsong", 1),
    "cat": ("cat", 1),
    "cuckoo": ("cuckoo", 1),
    "dog": ("dog", 1),
    "drums": ("drum_beat", 1),
    "guitar": ("guitar", 1),
    "rain": ("rain", 1),
    "siren": ("siren", 1),
    "telephone": ("phone_ring", 1),
    "thunder": ("thunder", 1),
}
LONGEST = 3  # seconds of these
# One long file, as what a window of a search is for: (second, sound, seed).
EVENING, EVENING_SECONDS = ((2.5, "cricket", 1), (13, "knocking", 1), (24, "owl", 1)), 30
WINDOW = ("an owl", 20, 30)  # what the long file is searched for, and the window that has it, in seconds
# (query, language, file name; none for what no file here has)
QUERIES = (
    ("a church bell", "en", "bell"),
    ("heavy rain", "en", "rain"),
    ("ein Hund bellt", "de", "dog"),
    ("un téléphone qui sonne", "fr", "telephone"),
    ("una guitarra", "es", "guitar"),
    ("打雷", "zh", "thunder"),
    ("カッコウ", "ja", "cuckoo"),
    ("an owl", "en", "evening"),
    ("a vacuum cleaner", "en", ""),
)


def write_sounds(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (sound, seed) in SOUNDS.items():
        write(folder / f"{name}.flac", drawn(sound, seed)[: LONGEST * RATE], 0.7)
    evening = np.zeros(EVENING_SECONDS * RATE, np.float32)
    for start, sound, seed in EVENING:
        wave = drawn(sound, seed)[: LONGEST * RATE]
        first = int(start * RATE)
        evening[first : first + len(wave)] += wave
    write(folder / "evening.flac", evening, 0.7)


def drawn(sound: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng((4, seed))
    return in_room(make_wave(NAMES.index(sound), Draw(rng, held_out=True)), Draw(rng))


def write(path: Path, wave: np.ndarray, peak: float) -> None:
    """16-bit FLAC with the last bits of a quiet room."""
    spectrum = np.fft.rfft(wave)
    count = len(wave) * STORED_RATE // RATE
    wave = np.fft.irfft(spectrum[: count // 2 + 1], count) * (STORED_RATE / RATE)
    fall = min(count, STORED_RATE // 50)
    wave[-fall:] *= np.linspace(1, 0, fall)
    wave = wave * (peak / np.abs(wave).max()) + 2e-5 * np.random.default_rng(0).standard_normal(count)
    soundfile.write(path, wave, STORED_RATE, subtype="PCM_16")


def wrong_answers(model: str, sounds: Path) -> list[str]:
    """One line per query that an index with this model answers wrongly; prints all answers."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        index = Index(Path(folder) / "sounds.mmindex", model=model)
        index.refresh(sounds)
        for query, _, expected in QUERIES:
            hits = index.search(query, strong_only=False, top=3)
            shown = (f"{Path(hit.path).stem} {hit.score:.2f}{'' if hit.strong else '?'}" for hit in hits)
            print(f"{query:24}", "  ".join(shown))
            best = Path(hits[0].path).stem if hits and hits[0].strong else ""
            if best != expected:
                wrong.append(f"{query}: {best or 'nothing'}, not {expected or 'nothing'}")
            if query == WINDOW[0] and (hits[0].start, hits[0].stop) != WINDOW[1:]:
                wrong.append(f"{query}: from {hits[0].start} to {hits[0].stop} s, not {WINDOW[1]} to {WINDOW[2]} s")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder written by sounds_clap.py")
    parser.add_argument("--out", type=Path, required=True, help="gets sounds/ and the queries in demo.json")
    options = parser.parse_args()
    sounds = options.out / "sounds"
    write_sounds(sounds)
    rows = [{"query": query, "language": language, "expected": name} for query, language, name in QUERIES]
    write_part(
        options.model, options.out, part="sounds", rows=rows, wrong_answers=lambda model: wrong_answers(model, sounds)
    )


if __name__ == "__main__":
    main()
