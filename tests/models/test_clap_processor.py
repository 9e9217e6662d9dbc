"""The processor of CLAP against the features in its golden file, made by transformers' ClapFeatureExtractor."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from clap_tiny import CLAP_TOKENIZER_CONFIG, clap_preprocessor_config, clap_tokenizer, uniform
from tiny import GOLDEN, golden, hashed

from mlx_mm.errors import ConfigError, InputError, MediaError, ModalityError
from mlx_mm.models.clap.processor import AudioSettings, Processor
from mlx_mm.processing.audio import mel_bank

CASES = golden("clap_features")
NAMES = [name for name in CASES if not name.startswith("_")]
RATE = 48_000
LENGTH = 480_000
TOLERANCE = 1e-4  # dB
OPTIONS: list[dict[str, Any]] = [
    {"padding": "repeat"}, {"padding": "pad"}, {"max_length_s": 2}, {"hop_length": 400}, {"fft_window_size": 800},
    {"frequency_min": 0}, {"frequency_max": 12_000}, {"feature_size": 40},
]  # fmt: skip


def config(fusion: bool = False, towers: str = "text audio", vocabulary: int = 269, positions: int = 514) -> Any:
    text = SimpleNamespace(max_length=positions - 2, vocab_size=vocabulary, pad_token_id=1)
    return SimpleNamespace(
        model_type="clap",
        text_config=text if "text" in towers else None,
        audio_config=SimpleNamespace(enable_fusion=fusion) if "audio" in towers else None,
    )


def folder_of(path: Path, settings: dict[str, Any] | None = None, tokenizer: Any = None) -> Path:
    if settings is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tokenizer or clap_tokenizer()).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(CLAP_TOKENIZER_CONFIG))
    return path


def made(fusion: bool, **settings: Any) -> Processor:
    """A processor without texts."""
    named: dict[str, Any] = {"frequency_min": 50, "truncation": "fusion" if fusion else "rand_trunc"}
    return Processor(config(fusion, "audio"), None, AudioSettings(**named | settings))


@pytest.fixture
def plain(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    folder = tmp_path_factory.mktemp("plain")
    return Processor.from_folder(folder_of(folder, clap_preprocessor_config(False)), config())


@pytest.fixture
def fused(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    folder = tmp_path_factory.mktemp("fused")
    return Processor.from_folder(folder_of(folder, clap_preprocessor_config(True)), config(True))


def signal(count: int, noise: bool = True) -> np.ndarray:
    """The sound of the golden file, by the formula written in it."""
    t = np.arange(count) / RATE
    x = 0.4 * np.sin(2 * np.pi * (100 * t + 300 * t**2)) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.7 * t))
    x = x + 0.1 * np.sin(2 * np.pi * 9000 * t)
    return (x + (0.01 * (2 * uniform("noise", (count,)) - 1) if noise else 0)).astype(np.float32)


def sounds_of(name: str) -> list[np.ndarray]:
    lengths = CASES["_signal"]["lengths"]
    if "batch_3s" in name:
        return [signal(144_000), signal(641_760), signal(480_300)]
    if "all_short" in name:
        return [signal(144_000), signal(480_000), signal(48_000)]
    if "silence" in name:
        return [np.zeros(lengths["silence1s"], np.float32)]
    counts = {"480300": 480_300, "480480": 480_480, "short": 144_000, "exact": 480_000, "long": 641_760}
    count = next(count for part, count in counts.items() if part in name)
    return [signal(count, noise="no_noise" not in name)]


def noise(count: int, k: int = 0) -> np.ndarray:
    return hashed((count,), k).astype(np.float32)


def same(got: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert list(got) == list(right)
    for key, value in right.items():
        assert got[key].dtype == value.dtype
        np.testing.assert_array_equal(got[key], value)


# --- golden features


def test_the_signal() -> None:
    facts = CASES["_signal"]
    np.testing.assert_allclose(signal(LENGTH)[:8], facts["first8"], atol=1e-7)
    assert np.abs(signal(LENGTH)).sum(dtype=np.float64) == pytest.approx(facts["sum_abs_480000"], rel=1e-9)


def far(name: str, features: np.ndarray) -> float:
    """How far one clip's features (C, T, 64) are from the golden numbers, in dB."""
    case = CASES[name]
    with np.load(GOLDEN / "clap_features.npz") as file:
        rows, means, mels = (file[f"{name}/{part}"].astype(np.float64) for part in ("rows", "frame_mean", "mel_mean"))
    got = features[: len(rows)].astype(np.float64)
    parts = (got[:, case["row_frames"]] - rows, got[:, ::10].mean(2) - means, got.mean(1) - mels)
    return max(float(np.abs(part).max()) for part in parts)


@pytest.mark.parametrize("name", NAMES)
def test_golden_features(name: str) -> None:
    case = CASES[name]
    processor = made(case["truncation"] == "fusion")
    clips = [(samples, RATE) for samples in sounds_of(name)]
    # Where no seed was set, nothing is drawn but the pick of a single clip.
    options = {"seed": case["seed"] or 0, **case["kwargs"]}
    got = processor.audio(clips, as_transformers=True, **options)
    features = got["input_features"]
    assert (features.dtype, list(features.shape)) == (np.float32, case["shape"])
    assert (got["is_longer"].dtype, got["is_longer"].tolist()) == (bool, case["is_longer"])
    for clip, stats, identical in zip(features, case["stats"], case["all_four_identical"], strict=True):
        assert (len(clip) == 4 and (clip == clip[0]).all()) == identical
        assert len(stats) == (1 if identical else len(clip))
        for channel, stat in zip(clip.astype(np.float64), stats, strict=False):
            found = {"min": channel.min(), "max": channel.max(), "mean": channel.mean(), "std": channel.std()}
            assert found == pytest.approx(stat, abs=TOLERANCE)
    if len(clips) == 1:
        assert far(name, features[0]) <= TOLERANCE
        # Our own way of drawing gives a single clip the same.
        np.testing.assert_array_equal(processor.audio(clips, **options)["input_features"], features)


def by_hand(samples: np.ndarray, wrong: str, scale: str) -> np.ndarray:
    """(T, 64) of the recipe with one mistake in it."""
    real = np.float32 if wrong == "float32 transform" else np.float64
    if wrong == "other bank":
        scale = {"htk": "slaney", "slaney": "htk"}[scale]
    bank = mel_bank(scale, 64, 1024, RATE, 0 if wrong == "f_min 0" else 50, 14_000)
    padded = np.pad(samples, 512, mode="constant" if wrong == "no reflection" else "reflect").astype(real)
    steps = 1023 if wrong == "symmetric window" else 1024
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / steps)).astype(real)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::480] * window
    power = np.abs(np.fft.rfft(frames)).astype(np.float64) ** (1 if wrong == "magnitude" else 2)
    mel = 10 * np.log10(np.maximum(power @ bank, 1e-10))
    return np.maximum(mel, mel.max() - 80) if wrong == "top_db" else mel


@pytest.mark.parametrize(
    ("wrong", "least"),
    [
        ("", 0), ("other bank", 1), ("f_min 0", 0.1), ("no reflection", 0.1), ("symmetric window", 1e-3),
        ("float32 transform", 1e-4), ("magnitude", 1), ("top_db", 1),
    ],
)  # fmt: skip
def test_wrong_recipes_miss_the_golden_features(wrong: str, least: float) -> None:
    missed = {}
    for name in ("rt_exact10s", "rt_exact10s_no_noise", "fu_exact10s"):
        scale = "htk" if name.startswith("fu") else "slaney"
        missed[name] = far(name, by_hand(sounds_of(name)[0], wrong, scale)[None])
    worst = max(missed.values())
    assert worst <= TOLERANCE if not wrong else worst > least, missed


def test_wrong_positions_miss_the_golden_features() -> None:
    """The squeezed channel: positions in float64, aligned corners, antialiasing, the nearest frame."""
    name = "fu_long13.37s_seed0"
    mel = made(True).settings.features(sounds_of(name)[0]).astype(np.float64)
    with np.load(GOLDEN / "clap_features.npz") as file:
        right = file[f"{name}/rows"][0]
    rows, count = np.array(CASES[name]["row_frames"]), len(mel)
    double = np.maximum((rows + 0.5) * count / 1001 - 0.5, 0)
    single = ((rows + np.float32(0.5)) * (np.float32(count) / np.float32(1001)) - np.float32(0.5)).clip(0)

    def missed(places: np.ndarray) -> float:
        got = [np.interp(places, np.arange(count), column) for column in mel.T]
        return float(np.abs(np.transpose(got) - right).max())

    assert missed(single.astype(np.float32)) <= TOLERANCE
    assert missed(double) > TOLERANCE
    assert missed(rows * (count - 1) / 1000) > 0.1
    assert missed(np.rint(double)) > 0.1


@pytest.mark.parametrize("seed", [0, 7, 123])
def test_where_the_stretches_begin(seed: int) -> None:
    draws = CASES["_rng"][str(seed)]
    generator = np.random.RandomState(seed)
    assert generator.randint(161_761) == draws["randint_161761"]
    assert generator.choice(np.arange(113)) == draws["choice_arange113"]
    assert generator.choice(np.arange(113, 226)) == draws["choice_113_225"]
    samples, start = signal(641_760), draws["randint_161761"]
    got = made(False).audio((samples, RATE), seed=seed)["input_features"][0]
    np.testing.assert_array_equal(got[0], made(False).settings.features(samples[start : start + LENGTH]))
    fusion = made(True)
    mel = fusion.settings.features(samples)
    got = fusion.audio((samples, RATE), seed=seed)["input_features"][0]
    starts = [next(n for n in range(338) if np.array_equal(mel[n : n + 1001], channel)) for channel in got[1:]]
    generator = np.random.RandomState(seed)
    assert starts == [generator.choice(np.arange(*ends)) for ends in ((0, 113), (113, 226), (226, 338))]
    if seed == 0:
        assert start == CASES["rt_long13.37s_seed0"]["crop_start"]
        assert starts == CASES["fu_long13.37s_seed0"]["chunk_starts"]


# --- batches and seeds


@pytest.mark.parametrize("fusion", [False, True])
def test_a_clip_is_the_same_alone_and_in_any_batch(fusion: bool) -> None:
    processor = made(fusion)
    clips = [(noise(count, count), RATE) for count in (500_000, 90_000, 700_000, 500_001, 480_000)]
    alone = [processor.audio(clip, seed=3) for clip in clips]
    for order in ([0, 1, 2, 3, 4], [2, 0], [4, 3, 2, 1], [1, 1, 0]):
        batch = processor.audio([clips[k] for k in order], seed=3)
        same(batch, {key: np.concatenate([alone[k][key] for k in order]) for key in alone[0]})
        same(processor.collate([alone[k] for k in order]), batch)
    longer = [True, False, True, True, False]
    assert [row["is_longer"].tolist() for row in alone] == [[[value]] for value in longer]


@pytest.mark.parametrize("fusion", [False, True])
def test_seeds(fusion: bool) -> None:
    processor = made(fusion)
    long, short = (noise(700_000), RATE), (noise(9000), RATE)
    first = processor.audio(long)
    same(processor.audio(long, seed=0), first)
    same(processor.audio(long, seed=np.int64(0)), first)
    assert not np.array_equal(processor.audio(long, seed=1)["input_features"], first["input_features"])
    same(processor.audio(short, seed=1), processor.audio(short, seed=2))
    # The second of two is drawn after the first, and transformers takes short clips for longer ones.
    both = processor.audio([long, long], as_transformers=True)
    np.testing.assert_array_equal(both["input_features"][0], first["input_features"][0])
    assert not np.array_equal(both["input_features"][1], first["input_features"][0])
    assert processor.audio(short)["is_longer"].tolist() == [[False]]
    assert processor.audio(short, as_transformers=True)["is_longer"].tolist() == [[fusion]]
    picked = {int(processor.audio([short] * 3, seed=k, as_transformers=True)["is_longer"].argmax()) for k in range(9)}
    assert picked == ({0, 1, 2} if fusion else {0})
    state = np.random.get_state()[1]
    processor.audio(long, as_transformers=True)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", None, True])
def test_seeds_that_cannot_be(seed: Any) -> None:
    for count in (9000, 500_000):
        with pytest.raises(InputError, match=r"seed is .*expected .*Leave it out"):
            made(False).audio((noise(count), RATE), seed=seed)


def test_a_frame_too_long() -> None:
    for count, longer in ((480_001, False), (480_479, False), (480_480, True)):
        got = made(True).audio((noise(count), RATE))
        assert got["is_longer"].tolist() == [[longer]]
        assert (got["input_features"][0] == got["input_features"][0, 0]).all() == (not longer)
        assert made(False).audio((noise(count), RATE))["is_longer"].all()


# --- sources


def test_files_and_arrays_of_all_kinds(tmp_path: Path) -> None:
    codes = np.floor(noise(80_000) * 2**15).astype(np.int16).reshape(-1, 8)
    processor = made(False)
    for rate in (8000, 48_000, 192_000):
        path = tmp_path / f"{rate}.flac"
        soundfile.write(path, codes, rate)
        sources = [path, str(path), path.read_bytes(), (codes, rate), (codes.T, rate), (codes / 2.0**15, rate)]
        batch = processor.audio(sources)
        assert batch["input_features"].shape == (6, 1, 1001, 64)
        assert (batch["input_features"] == batch["input_features"][0]).all()
        assert np.ptp(batch["input_features"]) > 10
    one = processor.audio((np.ones(1, np.float32), RATE))["input_features"]
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, processor.audio((np.ones(10), RATE))["input_features"])
    assert (processor.audio((np.zeros(1), RATE))["input_features"] == -100).all()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    nan = np.full(9, np.nan)
    for processor in (made(False), made(True)):
        for source in (tmp_path / "text.wav", tmp_path / "none.wav", b"", (nan, RATE), ([], RATE), (nan, 0), noise(9)):
            for call in (processor.audio, lambda source: list(processor.windows(source))):  # noqa: B023
                with pytest.raises(MediaError, match="expected"):
                    call(source)
        with pytest.raises(InputError, match="list of audio is empty"):
            processor.audio([])


# --- windows


def gathered(processor: Processor, source: Any, **options: Any) -> tuple[np.ndarray, list[float]]:
    batches, weights = zip(*processor.windows(source, **options), strict=True)
    for batch in batches:
        assert list(batch) == ["input_features", "is_longer"]
        assert batch["is_longer"].tolist() == [[False]]
    return np.concatenate([batch["input_features"] for batch in batches]), list(weights)


@pytest.mark.parametrize("fusion", [False, True])
@pytest.mark.parametrize(
    ("count", "weights"),
    [
        (1, [1]), (24_000, [1]), (479_999, [1]), (480_000, [1]), (480_001, [480_000 / 480_001, 1 / 480_001]),
        (960_000, [0.5, 0.5]), (1_200_000, [0.4, 0.4, 0.2]), (1_440_000, [1 / 3] * 3),
    ],
)  # fmt: skip
def test_windows(fusion: bool, count: int, weights: list[float]) -> None:
    processor = made(fusion)
    samples = noise(count)
    got, found = gathered(processor, (samples, RATE))
    assert found == pytest.approx(weights, rel=1e-9)
    assert sum(found) == pytest.approx(1, abs=1e-12)
    starts = [*range(0, max(count - LENGTH, 1), LENGTH)]
    parts = [samples[start : start + LENGTH] for start in starts]
    parts += [samples[-LENGTH:]] if count > LENGTH else []
    assert got.shape == (len(weights), 4 if fusion else 1, 1001, 64)
    right = processor.audio([(part, RATE) for part in parts])["input_features"]
    np.testing.assert_array_equal(got, right)
    if fusion:
        assert (got == got[:, :1]).all()


@pytest.mark.parametrize("rate", [48_000, 44_100])
@pytest.mark.parametrize("seconds", [0.5, 10, 25])
def test_windows_of_files(rate: int, seconds: float, tmp_path: Path) -> None:
    samples = noise(int(seconds * rate) * 2).reshape(-1, 2)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, rate, subtype="FLOAT")
    processor = made(False)
    got, weights = gathered(processor, (samples, rate))
    for source in (path, str(path), path.read_bytes()):
        features, found = gathered(processor, source)
        np.testing.assert_array_equal(features, got)
        assert found == weights
    assert len(weights) == -(-seconds // 10)


def test_windows_keep_the_filters_of_the_checkpoint() -> None:
    samples = noise(LENGTH)
    for fusion, scale in ((False, "slaney"), (True, "htk")):
        got, _ = gathered(made(fusion), (samples, RATE))
        assert np.abs(got[0, 0] - by_hand(samples, "", scale)).max() <= TOLERANCE
        assert np.abs(got[0, 0] - by_hand(samples, "other bank", scale)).max() > 1
        named = made(fusion).audio((samples, RATE), truncation="windows")["input_features"]
        np.testing.assert_array_equal(named, got)


def test_options_of_windows() -> None:
    samples = noise(110_000)
    got, weights = gathered(made(False), (samples, RATE), max_length_s=1, truncation="windows")
    assert weights == pytest.approx([48 / 110, 48 / 110, 14 / 110])
    right = made(False, max_length_s=1).audio([(samples[start:][:48_000], RATE) for start in (0, 48_000, 62_000)])
    np.testing.assert_array_equal(got, right["input_features"])
    padded, _ = gathered(made(False), (samples, RATE), padding="pad")
    np.testing.assert_array_equal(padded, made(False).audio((samples, RATE), padding="pad")["input_features"])
    for truncation in ("rand_trunc", "fusion", "middle"):
        # At once, not at the first window.
        with pytest.raises(InputError, match=r"truncation is .*leaves nothing out"):
            made(False).windows((samples, RATE), truncation=truncation)
    with pytest.raises(InputError, match=r"500000 samples .*at most 480000.*windows\(\)"):
        made(False).audio((noise(500_000), RATE), truncation="windows")
    with pytest.raises(MediaError, match="not there"):
        made(False).windows("none.wav")


def test_weights_where_the_header_errs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of MP3 files without a table of contents the length is an estimate."""
    samples = noise(110_000)
    for total in (70_000, 109_000, 111_000, 200_000):
        monkeypatch.setattr("mlx_mm.models.clap.processor.count_samples", lambda *_, total=total: total)
        got, weights = gathered(made(False), (samples, RATE), max_length_s=1)
        assert len(got) == 3
        assert min(weights) >= 0
        assert sum(weights) == pytest.approx(1)


# --- options and settings


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_options_act_like_settings(option: dict[str, Any]) -> None:
    clip = (noise(31_000), RATE)
    for fusion in (False, True):
        got = made(fusion).audio(clip, **option)
        same(made(fusion, **option).audio(clip), got)
        same(made(fusion)(audio=clip, audio_kwargs=option), got)
        assert not np.array_equal(got["input_features"], made(fusion).audio(clip)["input_features"])
        same(made(fusion).audio(clip, **dict.fromkeys(option)), made(fusion).audio(clip))


@pytest.mark.parametrize(
    "option",
    [
        {"padding": "max_length"}, {"padding": True}, {"truncation": "middle"}, {"truncation": True},
        {"max_length_s": 0}, {"max_length_s": -1}, {"max_length_s": "10"}, {"max_length_s": float("nan")},
        {"hop_length": 0}, {"hop_length": 480.0}, {"fft_window_size": 0}, {"feature_size": True},
        {"frequency_min": -1}, {"frequency_max": float("inf")}, {"frequency_min": 14_000}, {"frequency_max": 50},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_act(option: dict[str, Any], tmp_path: Path) -> None:
    key = next(iter(option))
    with pytest.raises(InputError, match=rf"{key}.*expected .*[.] "):
        made(False).audio((noise(9), RATE), **option)
    with pytest.raises(ConfigError, match=rf"{key}.*expected .*[.] "):
        Processor.from_folder(folder_of(tmp_path, clap_preprocessor_config(False) | option), config())


@pytest.mark.parametrize("name", ["top_db", "padding_value", "max_length", "size", "nb_max_samples"])
def test_unknown_options_are_named(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 1, but this model has no {name}"):
        made(False).audio((noise(9), RATE), **{name: 1})


def test_the_rate_stands_beside_the_samples() -> None:
    with pytest.raises(InputError, match=r"sampling_rate is 44100.*audio=\(samples, sampling_rate\)"):
        made(False).audio((noise(9), RATE), sampling_rate=44_100)  # type: ignore[call-arg]
    slow = made(False, sampling_rate=16_000, frequency_max=8000).audio((noise(48_000), RATE))
    assert slow["input_features"].shape == (1, 1, 334, 64)


def test_truncation_and_checkpoint_fit(tmp_path: Path) -> None:
    clip = (noise(9), RATE)
    with pytest.raises(InputError, match=r"'fusion' and enable_fusion .* is false; expected 'rand_trunc'"):
        made(False).audio(clip, truncation="fusion")
    with pytest.raises(InputError, match=r"'rand_trunc' and enable_fusion .* is true; expected 'fusion'"):
        made(True).audio(clip, truncation="rand_trunc")
    folder_of(tmp_path, clap_preprocessor_config(True))
    mixed = Processor.from_folder(tmp_path, config(False))
    for call in (mixed.audio, mixed.windows):
        with pytest.raises(ConfigError, match="enable_fusion"):
            call(clip)
    assert mixed.text(["a"])["input_ids"].shape == (1, 3)


def test_both_generations_of_files(tmp_path: Path) -> None:
    clip = (noise(30_000), RATE)
    settings = clap_preprocessor_config(False) | {"padding": "pad"}
    four = Processor.from_folder(folder_of(tmp_path, settings), config()).audio(clip)
    nested = {"processor_class": "ClapProcessor", "feature_extractor": settings}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    folder_of(tmp_path, settings | {"padding": "repeat"})
    same(Processor.from_folder(tmp_path, config()).audio(clip), four)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "ClapProcessor"}))
    other = Processor.from_folder(tmp_path, config()).audio(clip)
    assert not np.array_equal(other["input_features"], four["input_features"])


def test_defaults_and_unknown_settings(tmp_path: Path) -> None:
    given = {"feature_extractor_type": "ClapFeatureExtractor", "hop_length": None}
    assert Processor.from_folder(folder_of(tmp_path, given), config(True)).settings == AudioSettings()
    # What is computed from other settings is computed anew.
    stale = clap_preprocessor_config(False) | {"nb_max_samples": 9, "nb_frequency_bins": 7, "top_db": 80, "new": None}
    processor = Processor.from_folder(folder_of(tmp_path, stale), config())
    same(processor.audio((noise(9), RATE)), made(False).audio((noise(9), RATE)))
    with pytest.raises(ConfigError, match=r"dither: 0\.1; expected only settings"):
        Processor.from_folder(folder_of(tmp_path, stale | {"dither": 0.1}), config())
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"no settings for sounds; expected preprocessor_config\.json"):
        Processor.from_folder(tmp_path, config())
    assert Processor.from_folder(tmp_path, config(towers="text")).modalities == ("text",)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json cannot be read"):
        Processor.from_folder(tmp_path, config())


def test_modalities(tmp_path: Path, plain: Processor) -> None:
    assert plain.modalities == ("text", "audio")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(clap_preprocessor_config(False)))
    for processor in (Processor.from_folder(tmp_path, config()), made(False)):
        assert processor.modalities == ("audio",)
        with pytest.raises(ModalityError, match=r"no (text tower|tokenizer file).*takes audio"):
            processor.text(["a"])
    text = Processor.from_folder(folder_of(tmp_path), config(towers="text"))
    for call in (text.audio, text.windows):
        with pytest.raises(ModalityError, match="no audio tower; it takes text"):
            call((noise(9), RATE))


# --- texts


def test_texts(plain: Processor) -> None:
    texts = ["a dog", "", "rain on a tin roof"]
    batch = plain.text(texts)
    assert list(batch) == ["input_ids", "attention_mask"]
    assert {value.dtype for value in batch.values()} == {np.dtype(np.int32)}
    tokens = clap_tokenizer()
    for text, ids, mask in zip(texts, batch["input_ids"], batch["attention_mask"], strict=True):
        right = tokens.encode(text).ids
        assert (right[0], right[-1]) == (0, 2)
        assert ids.tolist() == right + [1] * (len(ids) - len(right))
        assert mask.tolist() == [1] * len(right) + [0] * (len(ids) - len(right))
    same(plain.text(texts, padding=True), batch)
    assert plain.text(texts, padding="max_length")["input_ids"].shape == (3, 77)
    same(plain.text("a dog"), plain.text(["a dog"]))
    assert plain.text("DOG", do_lower_case=True)["input_ids"].tolist() == plain.text("dog")["input_ids"].tolist()
    same(plain.collate([plain.text(text) for text in texts]), batch)


def test_long_texts(plain: Processor) -> None:
    long = "x" * 2000
    ids = plain.text(long)["input_ids"]
    assert ids.shape == (1, 77)
    assert (ids[0, 0], ids[0, -1]) == (0, 2)
    assert plain.text(long, max_length=512)["input_ids"].shape == (1, 512)
    assert plain.text(long, max_length=2)["input_ids"].tolist() == [[0, 2]]
    for length in (513, 1, 0, True, "77"):
        with pytest.raises(InputError, match=r"max_length is .*expected"):
            plain.text("a", max_length=length)
    with pytest.raises(InputError, match="2002 tokens and truncation is False; expected at most 77"):
        plain.text(long, truncation=False)
    cut: list[int] = []
    plain.text(["a", long, "x" * 75, "x" * 76], on_cut=cut.append)
    assert cut == [2002, 78]
    for options in ({"padding": "repeatpad"}, {"padding": False}, {"task": "x"}):
        with pytest.raises(InputError, match="Leave"):
            plain.text("a", **options)


def test_small_position_tables(tmp_path: Path) -> None:
    folder_of(tmp_path, clap_preprocessor_config(False))
    short = Processor.from_folder(tmp_path, config(positions=40))
    assert short.text("x" * 99, padding="max_length")["input_ids"].shape == (1, 38)
    with pytest.raises(InputError, match="39; expected a whole number from 2 to 38"):
        short.text("a", max_length=39)


def test_tokenizers_of_another_checkpoint(tmp_path: Path) -> None:
    folder_of(tmp_path, clap_preprocessor_config(False))
    with pytest.raises(ConfigError, match=r"269 entries.*expected ids for the 99 rows"):
        Processor.from_folder(tmp_path, config(vocabulary=99)).text("a")
    other = config()
    other.text_config.pad_token_id = 0
    with pytest.raises(ConfigError, match="pads with 1; expected 0"):
        Processor.from_folder(tmp_path, other).text("a")
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(values | {"post_processor": None}))
    with pytest.raises(ConfigError, match=r"empty text into \[2\]; expected \[0, 2\]"):
        Processor.from_folder(tmp_path, config()).text("a")


# --- both


def test_texts_and_sounds_together(plain: Processor) -> None:
    clip = (noise(500_000), RATE)
    both = plain(text=["a dog"], audio=clip, seed=5, max_length=3, padding="max_length")
    assert list(both) == ["input_ids", "attention_mask", "input_features", "is_longer"]
    right = plain.text(["a dog"], max_length=3, padding="max_length") | plain.audio(clip, seed=5)
    same(both, right)
    pair = plain.audio([clip, clip], as_transformers=True)
    same(plain(audio=[clip, clip], as_transformers=True), pair)
    with pytest.raises(InputError, match="Neither text nor audio"):
        plain()
    idle: list[dict[str, Any]] = [{"seed": 1}, {"as_transformers": True}, {"audio_kwargs": {"padding": "pad"}}]
    for options in idle:
        with pytest.raises(InputError, match="was given without audio, where it cannot act"):
            plain(text="a dog", **options)
    plain(text="a dog", seed=0, audio_kwargs={"padding": None})
    with pytest.raises(InputError, match="padding is 'repeat'"):
        plain(text="a dog", audio=clip, padding="repeat")


def test_collate_refuses_what_does_not_fit(plain: Processor, fused: Processor) -> None:
    clip = (noise(9), RATE)
    assert fused.audio(clip)["input_features"].shape == (1, 4, 1001, 64)
    for items in (
        [plain.audio(clip), plain.audio(clip, max_length_s=1)],
        [plain.audio(clip), fused.audio(clip)],
        [plain.audio(clip), plain.text("a")],
        [],
    ):
        with pytest.raises(InputError, match="expected"):
            plain.collate(items)
