"""The processor of CLAP beside transformers 5.23's ClapFeatureExtractor, loader and RoBERTa tokenizer, bit for bit."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
from clap_tiny import CLAP_TOKENIZER_CONFIG, clap_tokenizer
from tiny import hashed

from mlx_mm.backend.native import mel
from mlx_mm.models.clap.processor import Processor
from mlx_mm.processing.audio import mel_bank, open_audio

pytestmark = pytest.mark.reference
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RATE = 48_000
MODES = ["rand_trunc", "fusion"]


def config(fusion: bool) -> Any:
    return SimpleNamespace(
        model_type="clap",
        text_config=SimpleNamespace(max_length=512, vocab_size=269, pad_token_id=1),
        audio_config=SimpleNamespace(enable_fusion=fusion),
    )


def both(folder: Path, truncation: str, **settings: Any) -> tuple[Any, Processor]:
    """Their extractor, and our processor of the file that it writes."""
    theirs = transformers.ClapFeatureExtractor(**{"frequency_min": 50, "truncation": truncation} | settings)
    theirs.save_pretrained(folder)
    return theirs, Processor.from_folder(folder, config(truncation == "fusion"))


def noise(count: int, k: int = 0) -> np.ndarray:
    return (hashed((count,), k) * 0.7).astype(np.float32)


def compare(pair: tuple[Any, Processor], clips: list[np.ndarray], seed: int = 0, **options: Any) -> None:
    theirs, ours = pair
    rate = theirs.sampling_rate
    np.random.seed(seed)
    right = theirs(clips, sampling_rate=rate, return_tensors="np", **options)
    for kernel in (True, False):
        with nullcontext() if kernel else patch.object(mel, "kernel_for", lambda size: None):
            got = ours.audio([(clip, rate) for clip in clips], seed=seed, as_transformers=True, **options)
        assert set(got) == set(right)
        for key, value in right.items():
            assert got[key].dtype == value.dtype
            # NumPy's transform has every bit; the kernel's is as exact, and rounds otherwise: 1 of 30,000 numbers.
            np.testing.assert_allclose(got[key], value, rtol=0, atol=1e-5 if kernel else 0)


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("truncation", MODES)
def test_lengths(truncation: str, padding: str, tmp_path: Path) -> None:
    pair = both(tmp_path, truncation)
    lengths = (1, 2, 511, 513, 4800, 160_000, 239_999, 240_001, 479_999, 480_000, 480_001, 480_479, 480_480, 480_960)
    for k, count in enumerate(lengths):
        compare(pair, [noise(count, k)], k, padding=padding)


@pytest.mark.parametrize("truncation", MODES)
def test_random_batches(truncation: str, tmp_path: Path) -> None:
    """Short of 10 s by the sampling rate, so that many clips are quick."""
    pair = both(tmp_path, truncation, sampling_rate=8000, frequency_max=4000, fft_window_size=256, hop_length=80)
    random = np.random.default_rng(0)
    for seed in range(20):
        highest = 80_000 if seed % 3 else 200_000
        clips = [noise(int(count), seed) for count in random.integers(1, highest, random.integers(1, 5))]
        compare(pair, clips, seed, padding=["repeatpad", "repeat", "pad"][seed % 3])


@pytest.mark.parametrize(
    "settings",
    [
        {"frequency_min": 0}, {"fft_window_size": 800}, {"hop_length": 300}, {"max_length_s": 3}, {"padding": "pad"},
        {"sampling_rate": 32_000}, {"top_db": 40, "padding_value": 3.0, "return_attention_mask": True},
        {"fft_window_size": 2048, "hop_length": 1000}, {"frequency_max": 24_000},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("truncation", MODES)
def test_settings(truncation: str, settings: dict[str, Any], tmp_path: Path) -> None:
    compare(both(tmp_path, truncation, **settings), [noise(100_000), noise(500_000, 1), noise(30_000, 2)], 3)


@pytest.mark.parametrize("frames", [1002, 1003, 1100, 1459, 2000, 3011])
def test_squeezed_time(frames: int, tmp_path: Path) -> None:
    compare(both(tmp_path, "fusion"), [noise((frames - 1) * 480)])


@pytest.mark.parametrize("kind", ["silence", "tone", "impulse", "steps", "tiny", "loud"])
@pytest.mark.parametrize("truncation", MODES)
def test_kinds_of_sound(truncation: str, kind: str, tmp_path: Path) -> None:
    n = np.arange(500_000)
    samples = {
        "silence": np.zeros(len(n)), "tone": np.sin(0.1 * n), "impulse": n == 250_000, "steps": np.sign(np.sin(n / 99)),
        "tiny": noise(len(n)) * 1e-6, "loud": noise(len(n)) * 40,
    }[kind].astype(np.float32)  # fmt: skip
    compare(both(tmp_path, truncation), [samples, samples[:9999]])


def test_filters(tmp_path: Path) -> None:
    for low, high, rate, filters in ((50, 14_000, 48_000, 64), (0, 8000, 16_000, 80), (20, 12_000, 44_100, 40)):
        theirs = transformers.ClapFeatureExtractor(filters, rate, frequency_min=low, frequency_max=high)
        for scale, right in (("htk", theirs.mel_filters), ("slaney", theirs.mel_filters_slaney)):
            np.testing.assert_array_equal(mel_bank(scale, filters, 1024, rate, low, high), right)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_their_loader(rate: int, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, hashed((30_001, channels), 5), rate)
    right = transformers.audio_utils.load_audio(str(path), sampling_rate=RATE, backend="soundfile")
    np.testing.assert_array_equal(open_audio(path, RATE), right)


def test_files_of_transformers_five(tmp_path: Path) -> None:
    extractor = transformers.ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc", padding="repeat")
    clap_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(CLAP_TOKENIZER_CONFIG))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs = transformers.ClapProcessor(extractor, tokenizer)
    theirs.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "preprocessor_config.json").exists()
    ours = Processor.from_folder(tmp_path / "saved", config(False))
    texts, clips = ["rain on a tin roof", "", " Dogs,  BARKING!\n", "ünï 🐕"], [noise(9000)]
    right = theirs(text=texts, audio=clips, sampling_rate=RATE, padding=True, return_tensors="np")
    got = ours(text=texts, audio=[(clip, RATE) for clip in clips])
    assert set(got) == set(right)
    for key, value in right.items():
        np.testing.assert_array_equal(got[key], value)
    long = ["a dog " * 200]
    for length in (3, 77, 512):
        right = tokenizer(long, truncation=True, max_length=length, return_tensors="np")["input_ids"]
        np.testing.assert_array_equal(ours.text(long, max_length=length)["input_ids"], right)
