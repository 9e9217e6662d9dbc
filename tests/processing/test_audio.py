"""Sounds: files and arrays of all kinds, resampling in blocks, padding, and the filters and spectrograms of CLAP."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from tiny import GOLDEN, golden, hashed

from mlx_mm.errors import InputError, MediaError
from mlx_mm.processing import audio
from mlx_mm.processing.audio import count_samples, fill, log_mel, mel_bank, open_audio, resize_time, stream_audio

RATE = 48_000
BANKS = golden("clap_mel_filters")
CLAP = {"filters": 64, "fft_size": 1024, "sampling_rate": RATE, "lowest": 50, "highest": 14_000}
LOSSLESS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_U8"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("FLAC", "PCM_16"),
    ("AIFF", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("AU", "PCM_16"),
]  # fmt: skip
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


def sound(samples: int, channels: int = 1, k: int = 0) -> np.ndarray:
    """Float32 (N, channels), a hum with noise."""
    hum = 0.3 * np.sin(np.arange(samples)[:, None] * 0.05 * np.arange(1, channels + 1))
    return (hum + 0.2 * hashed((samples, channels), k)).astype(np.float32)


def encode(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def same(got: np.ndarray, right: np.ndarray) -> None:
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, right)


# --- opening


@pytest.mark.parametrize(("kind", "subtype"), LOSSLESS)
def test_lossless_files(kind: str, subtype: str, tmp_path: Path) -> None:
    stereo = sound(5000, 2)
    data = encode(stereo, kind=kind, subtype=subtype)
    path = tmp_path / f"ü.{kind.lower()}"
    path.write_bytes(data)
    got = open_audio(path, RATE)
    step = {"PCM_U8": 2**-7, "PCM_16": 2**-15, "PCM_24": 2**-23}.get(subtype, 1e-7)
    np.testing.assert_allclose(got, (stereo[:, 0] + stereo[:, 1]) / 2, atol=step)
    for source in (str(path), data, bytearray(data), memoryview(data)):
        same(open_audio(source, RATE), got)
    assert count_samples(path, RATE) == 5000


@pytest.mark.parametrize(("kind", "subtype"), LOSSY)
def test_lossy_files(kind: str, subtype: str) -> None:
    samples = sound(48_000)
    data = encode(samples, kind=kind, subtype=subtype)
    got = open_audio(data, RATE)
    assert len(got) == 48_000
    assert np.abs(got).max() > 0.2
    same(np.concatenate(list(stream_audio(data, RATE, 7000))), got)


def test_pcm_arrays_are_scaled() -> None:
    codes = np.array([-32768, -1, 0, 1, 32767], np.int16)
    right = np.float32([-1, -1 / 32768, 0, 1 / 32768, 32767 / 32768])
    same(open_audio((codes, RATE), RATE), right)
    same(open_audio((codes.astype(np.int32) * 2**16, RATE), RATE), right)
    same(open_audio((np.array([0, 127, 128, 129, 255], np.uint8), RATE), RATE), np.float32([-128, -1, 0, 1, 127]) / 128)
    for kind in (np.float16, np.float32, np.float64, ">f4"):
        same(open_audio((np.array([-1, 0, 0.5], kind), RATE), RATE), np.float32([-1, 0, 0.5]))
    # The file's decoder agrees.
    codes = np.floor(hashed((3000, 2), 1) * 32768).astype(np.int16)
    same(open_audio((codes, 44_100), RATE), open_audio(encode(codes, 44_100, "WAV", "PCM_16"), RATE))


def test_channels_are_averaged() -> None:
    samples = sound(900, 8)
    got = open_audio((samples, RATE), RATE)
    np.testing.assert_allclose(got, samples.mean(1, dtype=np.float64), atol=1e-7)
    assert not np.allclose(got, samples[:, 0], atol=1e-2)
    for source in ((samples.T, RATE), (np.asfortranarray(samples), RATE), encode(samples)):
        same(open_audio(source, RATE), got)
    # Before resampling, which is linear but rounds.
    same(open_audio((samples, 8000), RATE), open_audio((got, 8000), RATE))


@pytest.mark.parametrize("shape", [(40,), (40, 1), (1, 40), (1, 5), (5, 1), (33, 2), (2, 33), (33, 32), (1, 1), (1,)])
def test_layouts(shape: tuple[int, ...]) -> None:
    samples = sound(math.prod(shape)).reshape(shape)
    axis = None if len(shape) == 1 else int(np.argmin(shape))
    right = samples if axis is None else samples.mean(axis, dtype=np.float64).astype(np.float32)
    np.testing.assert_allclose(open_audio((samples, RATE), RATE), right, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 2), (2, 32), (32, 32), (33, 33), (100, 40)])
def test_ambiguous_layouts(shape: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match=r"either way; expected .* Average"):
        open_audio((np.zeros(shape), RATE), RATE)


def test_a_mono_array_is_not_copied() -> None:
    samples = sound(3000)[:, 0]
    got = open_audio((samples, RATE), RATE)
    assert np.shares_memory(got, samples)
    same(got, samples)
    before = samples.copy()
    open_audio((samples, 8000), RATE)
    same(samples, before)


# --- what cannot be read


def nan_in(samples: np.ndarray, value: float) -> np.ndarray:
    samples = samples.copy()
    samples[len(samples) // 2, -1] = value
    return samples


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(value: float) -> None:
    for channels in (1, 2):
        samples = nan_in(sound(1000, channels), value)
        for source in ((samples, RATE), (samples, 8000), encode(samples), encode(samples, kind="W64")):
            with pytest.raises(MediaError, match="NaN or infinite samples; expected numbers"):
                open_audio(source, RATE)
            with pytest.raises(MediaError, match="NaN or infinite"):
                list(stream_audio(source, RATE, 100))
    with pytest.raises(MediaError, match="infinite"):
        open_audio((np.full(9, 1e300), RATE), RATE)


@pytest.mark.parametrize("rate", [0, -1, 48, 999.9, math.nan, math.inf, None, "48000", True])
def test_rates(rate: Any) -> None:
    with pytest.raises(MediaError, match=r"sampling rate is .*expected .*\(samples, sampling_rate\)"):
        open_audio((sound(10), rate), RATE)


@pytest.mark.parametrize(
    "samples",
    [
        [], [[]], np.zeros((0, 2)), np.zeros((2, 0)), np.zeros((1, 2, 3)), np.float32(1), [1, 2], ["a"], [None],
        [[1.0], [1.0, 2.0]], np.zeros(3, complex), np.zeros(3, np.uint16), np.zeros(3, bool), np.zeros(3, np.int8),
    ],
    ids=repr,
)  # fmt: skip
def test_arrays_that_are_no_sounds(samples: Any) -> None:
    with pytest.raises(MediaError, match=r"expected .*[.] "):
        open_audio((samples, RATE), RATE)


@pytest.mark.parametrize("source", [None, 3, sound(9), [sound(9), RATE], (), (1, 2, 3), (sound(9),)], ids=repr)
def test_sources_of_another_type(source: Any) -> None:
    with pytest.raises(MediaError, match=r"expected .*\(samples, sampling_rate\)"):
        open_audio(source, RATE)


def test_paths_without_a_sound(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"none\.wav is not there; expected a sound file"):
        open_audio(tmp_path / "none.wav", RATE)
    with pytest.raises(MediaError, match="is a folder; expected"):
        open_audio(tmp_path, RATE)
    (tmp_path / "headless.raw").write_bytes(b"12345678" * 99)
    with pytest.raises(MediaError, match=r"headless\.raw cannot be read"):
        open_audio(tmp_path / "headless.raw", RATE)


@pytest.mark.parametrize(
    "data",
    [b"", b"RIFF", b"hello world" * 100, bytes(5000), b"\x89PNG\r\n\x1a\n" + bytes(99), encode(sound(0))],
    ids=len,
)
def test_bytes_that_are_no_sound(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(MediaError, match=r"cannot be read as a sound \(.+\); expected .*[.] "):
            open_audio(source, RATE)


STARTS = [b"\0\0\0 ftypM4A ", b"\x1aE\xdf\xa3", b"\xff\xf1\x50\x80", b"0&\xb2u\x8ef\xcf\x11"]


@pytest.mark.parametrize("start", STARTS)
def test_containers_without_a_decoder(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        MediaError, match=r"AAC, MP4, WebM or WMA.*expected .*wav.*pip install 'mlx_mm\[audio\]'.*ffmpeg"
    ):
        open_audio(start + bytes(500), RATE)


@pytest.mark.parametrize("start", STARTS)
def test_damaged_containers(start: bytes) -> None:
    pytest.importorskip("av")
    with pytest.raises(MediaError, match=r"cannot be read as a sound \(.+\); expected .*[.] "):
        open_audio(start + bytes(500), RATE)


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("adts", "aac"), ("matroska", "aac"), ("webm", "libopus")])
def test_containers(kind: str, codec: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(96_000) / RATE)).astype(np.float32)
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format=kind) as container:
        track = container.add_stream(codec, rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate = RATE
        container.mux([*track.encode(frame), *track.encode(None)])
    got = open_audio(path, RATE)
    # AAC frames have 1024 samples; who writes none of their trimming leaves up to two more.
    assert 96_000 <= len(got) == count_samples(path, RATE) < 98_100
    lag = int(np.argmax([np.dot(got[k : k + 90_000], tone[:90_000]) for k in range(1100)]))
    assert np.abs(got[lag:][2000:80_000] - tone[2000:80_000]).max() < 0.03
    same(np.concatenate(list(stream_audio(path.read_bytes(), RATE, 5000))), got)
    assert len(open_audio(path, 16_000)) == -(-len(got) // 3)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize(
    ("kind", "subtype"), [pair for pair in LOSSLESS if pair[1] != "PCM_U8"] + [("MP3", "MPEG_LAYER_III")]
)
def test_files_that_are_cut_off(kind: str, subtype: str, share: float) -> None:
    data = encode(sound(48_000, 2), kind=kind, subtype=subtype)
    with pytest.raises(MediaError, match=r"cannot be read as a sound \(.+\); expected a complete"):
        open_audio(data[: int(len(data) * share)], RATE)


def test_sizes_of_a_pipe_are_not_taken_for_damage() -> None:
    """Who writes to a pipe cannot know the size; ffmpeg writes the largest number."""
    data = encode(sound(3000), subtype="PCM_16")
    place = data.index(b"data") + 4
    piped = data[:4] + b"\xff\xff\xff\xff" + data[8:place] + b"\xff\xff\xff\xff" + data[place + 4 :]
    same(open_audio(piped, RATE), open_audio(data, RATE))
    sloppy = data[:4] + (len(data)).to_bytes(4, "little") + data[8:]  # counts its own header too
    same(open_audio(sloppy, RATE), open_audio(data, RATE))


def test_damage_in_the_middle() -> None:
    data = bytearray(encode(sound(48_000), kind="FLAC", subtype="PCM_16"))
    data[len(data) // 2 :][:2000] = bytes(2000)
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(range(250)) * 8
    with pytest.raises(MediaError, match="flac"):
        open_audio(bytes(data), RATE)


# --- resampling


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 47_999, 88_200, 96_000, 192_000])
def test_resampling_is_that_of_librosa(rate: int) -> None:
    for count in (1, 2, 1000, 44_101):
        samples = sound(count)[:, 0]
        got = open_audio((samples, rate), RATE)
        right = soxr.resample(samples, rate, RATE, quality="HQ")
        length = math.ceil(count * RATE / rate)
        assert len(got) == length == count_samples((samples, rate), RATE)
        same(got, np.pad(right, (0, length - len(right))))
    assert np.abs(open_audio((sound(4000), rate), RATE)).max() > 0.3


def test_a_tone_keeps_its_height() -> None:
    for rate in (8000, 44_100, 192_000):
        tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
        got = open_audio((tone, rate), RATE)
        right = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
        assert np.abs(got - right)[2000:-2000].max() < 1e-4


@pytest.mark.parametrize("rate", [48_000, 44_100, 8000, 192_000])
@pytest.mark.parametrize("block", [1, 999, 5000, 10**6])
def test_streams_are_the_same_samples(rate: int, block: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    samples = sound(3000 if block == 1 else 20_000, 2)
    whole = open_audio((samples, rate), RATE)
    path = tmp_path / "a.wav"
    path.write_bytes(encode(samples, rate))
    for read in (audio.SAMPLES_PER_READ, 777):
        monkeypatch.setattr(audio, "SAMPLES_PER_READ", read)
        for source in ((samples, rate), path, path.read_bytes()):
            blocks = list(stream_audio(source, RATE, block))
            assert all(len(part) == block for part in blocks[:-1])
            assert 0 < len(blocks[-1]) <= block
            same(np.concatenate(blocks), whole)


def test_streams_hold_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read as far as its samples are asked for."""
    monkeypatch.setattr(audio, "SAMPLES_PER_READ", 100)
    samples = nan_in(sound(10_000), np.nan)
    blocks = stream_audio(encode(samples), RATE, 1000)
    for _ in range(4):
        assert len(next(blocks)) == 1000
    with pytest.raises(MediaError, match="NaN"):
        list(blocks)


# --- length


@pytest.mark.parametrize(
    ("count", "padding", "right"),
    [
        (3, "repeat", "01201201"), (3, "repeatpad", "012012--"), (3, "pad", "012-----"), (8, "pad", "01234567"),
        (4, "repeat", "01230123"), (4, "repeatpad", "01230123"), (5, "repeatpad", "01234---"), (1, "repeat", "0" * 8),
        (5, "repeat", "01234012"), (8, "repeat", "01234567"), (1, "repeatpad", "0" * 8), (1, "pad", "0-------"),
    ],
)  # fmt: skip
def test_fill(count: int, padding: str, right: str) -> None:
    got = fill(np.arange(1, count + 1, dtype=np.float32), 8, padding)
    same(got, np.float32([0 if letter == "-" else int(letter) + 1 for letter in right]))


def test_unknown_padding() -> None:
    with pytest.raises(InputError, match="padding is 'max_length'; expected"):
        fill(np.ones(3, np.float32), 8, "max_length")


@pytest.mark.parametrize(
    ("frames", "wanted"), [(1002, 1001), (1338, 1001), (2000, 1001), (7, 3), (2, 5), (5, 5), (1, 4)]
)
def test_resize_time(frames: int, wanted: int) -> None:
    mel = (hashed((frames, 64), 3) * 20).astype(np.float32)
    got = resize_time(mel, wanted)
    assert got.shape == (wanted, 64)
    places = np.maximum((np.arange(wanted) + 0.5) * frames / wanted - 0.5, 0)
    right = [np.interp(places, np.arange(frames), column) for column in mel.T.astype(np.float64)]
    # Positions of single precision: 1338 frames are known to 6e-5 of a frame.
    np.testing.assert_allclose(got, np.transpose(right), atol=5e-3)
    same(resize_time(np.full((frames, 2), 0.5, np.float32), wanted), np.full((wanted, 2), 0.5, np.float32))


# --- spectrogram


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_golden_filters(scale: str) -> None:
    with np.load(GOLDEN / "clap_mel_filters.npz") as file:
        right = np.zeros((513, 64))
        right[file[f"{scale}_bin"], file[f"{scale}_mel"]] = file[f"{scale}_value"]
    facts = BANKS[scale]
    got = mel_bank(scale, **CLAP)
    np.testing.assert_allclose(got, right, rtol=1e-12, atol=1e-15)
    used = np.flatnonzero(got.any(axis=1))
    assert (got.dtype, np.count_nonzero(got)) == (np.float64, facts["nnz"])
    assert (used[0], used[-1]) == (facts["first_bin"], facts["last_bin"])
    assert got.sum() == pytest.approx(facts["total"], rel=1e-12)
    assert (np.count_nonzero(got, axis=1) <= 2).all()
    for wrong in (mel_bank(scale, **CLAP | {"lowest": 0}), mel_bank({"htk": "slaney", "slaney": "htk"}[scale], **CLAP)):
        assert np.abs(wrong / right.max() - right / right.max()).max() > 0.1
        assert wrong.sum() != pytest.approx(facts["total"], rel=1e-4)
    assert json.loads((GOLDEN / "clap_mel_filters.json").read_text())[scale] == facts


def test_filters_are_made_once_and_kept_safe() -> None:
    bank = mel_bank("htk", **CLAP)
    assert mel_bank("htk", **CLAP) is bank
    with pytest.raises(ValueError, match="read-only"):
        bank[0, 0] = 1


def plainly(samples: np.ndarray, bank: np.ndarray, size: int, hop: int) -> np.ndarray:
    """The recipe, all at once."""
    padded = np.pad(samples.astype(np.float64), size // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    power = np.abs(np.fft.rfft(frames)) ** 2 @ bank
    return 10 * np.log10(np.maximum(power, 1e-10))


@pytest.mark.parametrize("count", [1, 2, 77, 512, 513, 1023, 1024, 1025, 4799, 4800, 100_000])
def test_log_mel(count: int) -> None:
    samples = sound(count)[:, 0]
    bank = mel_bank("htk", **CLAP)
    got = log_mel(samples, bank, 1024, 480)
    assert got.shape == (1 + count // 480, 64)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, plainly(samples, bank, 1024, 480), atol=1e-4)


@pytest.mark.parametrize("settings", [(40, 512, 160, 16_000, 0, 8000), (80, 400, 100, 24_000, 20, 12_000)])
def test_log_mel_of_other_sizes(settings: tuple[int, int, int, int, int, int]) -> None:
    filters, size, hop, *_ = settings
    bank = mel_bank("slaney", filters, size, *settings[3:])
    samples = sound(5000)[:, 0]
    np.testing.assert_allclose(log_mel(samples, bank, size, hop), plainly(samples, bank, size, hop), atol=1e-4)


def test_frames_do_not_depend_on_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = sound(30_000)[:, 0]
    bank = mel_bank("slaney", **CLAP)
    whole = log_mel(samples, bank, 1024, 480)
    for frames in (1, 7, 1000):
        monkeypatch.setattr(audio, "FRAMES_PER_BLOCK", frames)
        np.testing.assert_allclose(log_mel(samples, bank, 1024, 480), whole, atol=4e-6)


def test_silence_and_filters_above_the_band() -> None:
    bank = mel_bank("htk", **CLAP)
    assert (log_mel(np.zeros(4800, np.float32), bank, 1024, 480) == -100).all()
    high = mel_bank("htk", 64, 1024, 16_000, 50, 14_000)
    got = log_mel(sound(4800)[:, 0], high, 1024, 480)
    assert (got[:, -5:] == -100).all()
    assert (got[:, :20] > -60).all()
