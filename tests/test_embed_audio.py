"""Sounds to vectors and scores: any length, the same answer every time."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mlx_mm import batches, classify, convert, encode_audio, encode_text, load, to_mlx
from mlx_mm.backend import device
from mlx_mm.cli import program as cli
from mlx_mm.errors import InputError, MediaError
from mlx_mm.probes import synthetic_sounds

RATE = 48000


@functools.cache
def noise(seconds: float, seed: int = 0) -> tuple[np.ndarray, int]:
    """A sound that changes from second to second, made once."""
    count = int(seconds * RATE)
    time = np.arange(count) / RATE
    rough = np.random.RandomState(seed).standard_normal(count)
    return (0.2 * rough * np.sin(time) + 0.3 * np.sin(300 * time * (1 + time / 9))).astype(np.float32), RATE


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from clap_tiny import clap_weights, tiny_clap_config, write_clap_side_files
    from tiny import write_checkpoint

    made = {}
    for name, fused in (("clap", False), ("clap-fused", True)):
        config = tiny_clap_config(fused)
        folder = tmp_path_factory.mktemp(name)
        made[name] = write_checkpoint(folder, config, clap_weights(config), side_files=write_clap_side_files)
    return made


@pytest.fixture(params=["clap", "clap-fused"])
def clap(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[Any, Any]:
    return load(folders[request.param])


# --- one sound, one vector


@pytest.mark.parametrize("truncation", ["windows", "rand_trunc"])
def test_the_same_bits_alone_and_in_any_batch(clap: tuple[Any, Any], truncation: str) -> None:
    model, processor = clap
    if truncation != "windows" and model.config.audio_config.enable_fusion:
        truncation = "fusion"
    sounds = [noise(seconds, seed) for seed, seconds in enumerate((3, 13.4, 0.5, 25, 10))]
    alone = [encode_audio(model, processor, sound, truncation=truncation) for sound in sounds]
    for batch_size in (1, 2, 8):
        together = encode_audio(model, processor, sounds, truncation=truncation, batch_size=batch_size)
        assert together.dtype == np.float32
        np.testing.assert_array_equal(together, np.stack(alone))
    again = encode_audio(model, processor, [sounds[3]] * 5 + sounds[:2], truncation=truncation)
    assert all((row == alone[3]).all() for row in again[:5])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_windows_average_unit_vectors_by_the_samples_they_add(clap: tuple[Any, Any]) -> None:
    model, processor = clap
    samples, rate = noise(24)
    parts = [samples[:480000], samples[480000:960000], samples[-480000:]]
    vectors = encode_audio(model, processor, [(part, rate) for part in parts])
    expected = (10 * vectors[0] + 10 * vectors[1] + 4 * vectors[2]) / 24
    got = encode_audio(model, processor, (samples, rate), normalize=False)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.linalg.norm(got) < 1 - 1e-5
    unit = encode_audio(model, processor, (samples, rate))
    np.testing.assert_allclose(unit, got / np.linalg.norm(got), atol=1e-6)
    assert np.abs(unit - vectors[:2].mean(axis=0)).max() > 1e-5


def test_crops_depend_on_the_seed_and_nothing_else(folders: dict[str, Path]) -> None:
    model, processor = load(folders["clap"])
    sound = noise(30)
    np.random.seed(1)
    first = encode_audio(model, processor, sound, truncation="rand_trunc")
    np.random.seed(2)
    np.testing.assert_array_equal(encode_audio(model, processor, sound, truncation="rand_trunc"), first)
    assert np.abs(encode_audio(model, processor, sound, truncation="rand_trunc", seed=5) - first).max() > 1e-5
    np.testing.assert_array_equal(encode_audio(model, processor, sound), encode_audio(model, processor, sound, seed=5))


def test_a_vector_is_that_of_the_model(clap: tuple[Any, Any]) -> None:
    model, processor = clap
    sound = noise(4)
    features = model.get_audio_features(**to_mlx(processor.audio([sound])))
    np.testing.assert_allclose(encode_audio(model, processor, [sound]), np.array(features), atol=1e-6)


def test_a_gpu_computes_one_batch(clap: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = clap
    sounds = [noise(2), noise(23, 1), noise(3, 2)]  # one, three and one windows
    expected = encode_audio(model, processor, sounds)
    rows: list[int] = []
    features = model.get_audio_features
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    monkeypatch.setattr(
        model, "get_audio_features", lambda **batch: rows.append(len(batch["input_features"])) or features(**batch)
    )
    for batch_size, sizes in ((8, [5]), (2, [2, 2, 1])):
        rows.clear()
        got = encode_audio(model, processor, sounds, batch_size=batch_size)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
        assert rows == sizes


def test_a_lazy_model_hears_the_same(folders: dict[str, Path]) -> None:
    sounds = [noise(2), noise(11), noise(1, 4)]
    expected = encode_audio(*load(folders["clap"]), sounds)
    lazy = load(folders["clap"], lazy=True)
    np.testing.assert_array_equal(encode_audio(*lazy, sounds), expected)
    texts = ["a cat", "a dog"]
    np.testing.assert_allclose(encode_text(*lazy, texts), encode_text(*load(folders["clap"]), texts), atol=1e-6)


def test_files_arrays_and_lists(clap: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = clap
    samples, rate = noise(1)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    expected = encode_audio(model, processor, (samples, rate))
    assert expected.ndim == 1
    for source in (tmp_path / "a.wav", str(tmp_path / "a.wav"), (tmp_path / "a.wav").read_bytes()):
        np.testing.assert_array_equal(encode_audio(model, processor, source), expected)
    assert encode_audio(model, processor, []).shape == (0, 0)
    assert encode_audio(model, processor, [(samples, rate)], dim=7).shape == (1, 7)
    assert np.linalg.norm(encode_audio(model, processor, (samples, rate), dim=7)) == pytest.approx(1, abs=1e-6)


# --- what cannot be read


def test_an_unreadable_file_is_raised_or_reported(clap: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = clap
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing of the kind")
    sounds = [noise(1), tmp_path / "bad.wav", noise(12)]
    with pytest.raises(MediaError, match=r"bad\.wav"):
        encode_audio(model, processor, sounds)
    seen = []
    vectors = encode_audio(model, processor, sounds, on_error=lambda index, error: seen.append((index, str(error))))
    assert [index for index, _ in seen] == [1]
    np.testing.assert_array_equal(vectors, encode_audio(model, processor, [sounds[0], sounds[2]]))
    assert encode_audio(model, processor, tmp_path / "bad.wav", on_error=lambda *_: None).shape == (0, 0)


def test_a_sound_that_breaks_off_later_has_no_vector(folders: dict[str, Path]) -> None:
    """Its first windows are in the batch of another sound by then."""
    model, processor = load(folders["clap"])
    samples, rate = noise(45)
    broken = samples.copy()
    broken[30 * rate] = np.nan
    seen = []
    sounds = [(broken, rate), (samples, rate)]
    vectors = encode_audio(model, processor, sounds, batch_size=2, on_error=lambda index, _: seen.append(index))
    assert seen == [0]
    np.testing.assert_array_equal(vectors, encode_audio(model, processor, [sounds[1]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"truncation": "middle"}, "middle"), ({"batch_size": 0}, "batch_size"), ({"dim": 10**6}, "dim is")],
)
def test_options_that_cannot_act(clap: tuple[Any, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode_audio(*clap, noise(1), **options)


def test_dim_cuts_after_the_average_of_whole_windows(clap: tuple[Any, Any]) -> None:
    sounds = [noise(3), noise(24, 1)]
    whole = encode_audio(*clap, sounds, normalize=False)
    np.testing.assert_array_equal(encode_audio(*clap, sounds, dim=5, normalize=False), whole[:, :5])
    cut = whole[:, :5] / np.linalg.norm(whole[:, :5], axis=-1, keepdims=True)
    np.testing.assert_allclose(encode_audio(*clap, sounds, dim=5), cut, rtol=0, atol=1e-7)


def test_a_dim_is_checked_early(clap: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = clap
    for dim in (0, -1, True, 1.5):
        with pytest.raises(InputError, match=f"dim is {dim}; expected a whole number of 1 or more"):
            encode_audio(model, None, noise(1), dim=dim)
    calls = []
    run = batches.run_row_by_row
    monkeypatch.setattr(batches, "run_row_by_row", lambda *args: calls.append(1) or run(*args))
    with pytest.raises(InputError, match=r"dim is 1000; the vectors have (\d+) numbers, so expected 1 to \1\."):
        encode_audio(model, processor, [noise(1)] * 4, dim=1000, batch_size=1)
    assert len(calls) == 1


# --- scores


def test_classify_with_the_scale_of_sounds(clap: tuple[Any, Any]) -> None:
    model, processor = clap
    labels = ["a cat", "a dog", "so"]
    scores = dict(classify(model, processor, noise(2), labels))
    texts = encode_text(model, processor, [f"This is a sound of {label}." for label in labels])
    logits = texts @ encode_audio(model, processor, noise(2)) * np.exp(np.array(model.logit_scale_a))
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [scores[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-5)
    several = classify(model, processor, [noise(2), noise(11, 3)], labels)
    assert [len(row) for row in several] == [3, 3]
    assert dict(several[0]) == pytest.approx(scores, abs=1e-6)


def test_classify_takes_iterators_too(clap: tuple[Any, Any]) -> None:
    sounds = [noise(3), noise(3, 1)]
    expected = classify(*clap, sounds, ["rain", "wind"])
    assert classify(*clap, iter(sounds), ["rain", "wind"]) == expected
    assert classify(*clap, tuple(sounds), ["rain", "wind"]) == expected
    assert classify(*clap, sounds[0], ["rain", "wind"]) == expected[0]


# --- converted, and on the command line


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_models_hear(folders: dict[str, Path], tmp_path: Path, bits: int) -> None:
    report = convert(folders["clap-fused"], tmp_path / "out", bits=bits, group_size=32, check=True)
    assert report.cost is not None
    assert set(report.cost.vectors) == {"text", "audio"}
    assert (0.97 if bits == 4 else 0.9998) < report.cost.vectors["audio"].lowest < 1
    quantised = {choice.path for choice in report.choices if choice.scheme}
    assert any("audio_model" in path for path in quantised)
    assert any("token_embedding" in path for path in quantised)
    assert not any("relative_position" in path or "patch_embed" in path for path in quantised)
    model, processor = load(tmp_path / "out")
    for truncation in ("windows", "fusion"):
        assert np.isfinite(encode_audio(model, processor, noise(12), truncation=truncation)).all()


def test_the_vectors_of_a_dtype_are_near(folders: dict[str, Path]) -> None:
    sounds = synthetic_sounds()[:3]
    exact = encode_audio(*load(folders["clap"]), sounds)
    half = encode_audio(*load(folders["clap"], dtype="bfloat16"), sounds)
    assert (exact * half).sum(axis=1).min() > 0.9998


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    return (int(end.value.code or 0), *capsys.readouterr())


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name, seconds in (("short.wav", 1), ("long.flac", 21)):
        soundfile.write(folder / name, *noise(seconds))
    (folder / "notes.txt").write_text("no sound")
    (folder / "broken.mp3").write_bytes(b"no sound either")
    return folder


def test_command_line(folders: dict[str, Path], sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(folders["clap"])
    status, out, err = run(capsys, "embed", str(sounds), "--model", model)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [Path(row["id"]).name for row in rows] == ["long.flac", "short.wav"]
    assert "skipped" in err
    assert "broken.mp3" in err
    expected = encode_audio(*load(model), [row["id"] for row in rows])
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-7)
    status, out, err = run(capsys, "classify", str(sounds), "-m", model, "-l", "a cat, a dog", "--json")
    assert status == 0
    assert [Path(row["id"]).name for row in json.loads(out)] == ["long.flac", "short.wav"]
    status, out, err = run(capsys, "embed", str(sounds), "-m", model, "--max-num-patches", "64")
    assert (status, out) == (1, "")
    assert "about pictures, and this embeds audio" in err
    status, out, err = run(capsys, "embed", str(sounds), "-m", model, "--no-truncate")
    assert (status, out) == (1, "")
    assert "--no-truncate is about texts, and this embeds audio" in err
    status, out, err = run(capsys, "embed", str(sounds / ".."), "--text", "-m", model)
    assert status == 0


def test_faulty_published_weights_are_warned_of(folders: dict[str, Path], tmp_path: Path) -> None:
    named = tmp_path / "larger_clap_music"
    named.symlink_to(folders["clap"])
    with pytest.warns(UserWarning, match=r"larger_clap_music: its text tower .*larger_clap_general"):
        load(named)


def test_the_warning_on_the_command_line(
    folders: dict[str, Path], tmp_path: Path, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = tmp_path / "larger_clap_music"
    named.symlink_to(folders["clap"])
    status, out, err = run(capsys, "embed", str(sounds / "short.wav"), "-m", str(named))
    assert status == 0
    assert err.startswith("warning: larger_clap_music: its text tower")
    assert len(out.splitlines()) == 1


def test_an_early_end_leaves_no_threads(clap: tuple[Any, Any]) -> None:
    """An error of the caller's own leaves no thread behind that would still decode."""
    import threading

    before = threading.active_count()

    def stop(index: int, error: MediaError) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_audio(*clap, [b"no sound", noise(60), noise(60)], on_error=stop)
    assert threading.active_count() == before
