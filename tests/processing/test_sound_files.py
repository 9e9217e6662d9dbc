"""Sound files as the field leaves them: unfinished headers, pages under false names, junk before the first frame."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mlx_mm.errors import MediaError
from mlx_mm.processing import audio
from mlx_mm.processing.audio import count_samples, open_audio, stream_audio

RATE = 48_000
SAMPLES = (0.3 * np.sin(np.arange(9000) * 0.05) + 0.1 * np.cos(np.arange(9000) * 1.3)).astype(np.float32)


def encode(kind: str, subtype: str = "PCM_16", channels: int = 1, samples: np.ndarray = SAMPLES) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.stack([samples] * channels, 1), RATE, format=kind, subtype=subtype)
    return file.getvalue()


def with_bytes(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


# --- headers that were never finished


def sized(size: int) -> Callable[[bytes], bytes]:
    """A WAV whose data chunk says that size."""
    return lambda data: with_bytes(data, data.index(b"data") + 4, struct.pack("<I", size))


def zero_both(data: bytes) -> bytes:
    return with_bytes(sized(0)(data), 4, bytes(4))


UNFINISHED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "wav 0": ("WAV", sized(0)),
    "wav and riff 0": ("WAV", zero_both),
    "wav 0 with an odd byte": ("WAV", lambda data: sized(0)(data) + b"x"),
    "wav unknown": ("WAV", sized(0xFFFFFFFF)),
    "wav nearly unknown": ("WAV", sized(0xFFFFFFFF - 36)),
    "wav 2 GB": ("WAV", sized(0x7FFFFFFF)),
    "wavex 0": ("WAVEX", sized(0)),
    "rf64 0": ("RF64", lambda data: with_bytes(data, 28, bytes(8))),
    "rf64 all 0": ("RF64", lambda data: with_bytes(sized(0)(data), 20, bytes(24))),
    "rf64 unknown": ("RF64", lambda data: with_bytes(data, 28, b"\xff" * 8)),
    "au 0": ("AU", lambda data: with_bytes(data, 8, bytes(4))),
    "au unknown": ("AU", lambda data: with_bytes(data, 8, b"\xff" * 4)),
    "aiff 0": (
        "AIFF",
        lambda data: with_bytes(
            with_bytes(data, data.index(b"SSND") + 4, bytes(4)), data.index(b"COMM") + 10, bytes(4)
        ),
    ),
    "aiff 8": (
        "AIFF",
        lambda data: with_bytes(
            with_bytes(data, data.index(b"SSND") + 4, struct.pack(">I", 8)), data.index(b"COMM") + 10, bytes(4)
        ),
    ),
    "caf unknown": ("CAF", lambda data: with_bytes(data, data.index(b"data") + 4, b"\xff" * 8)),
    "caf 0": ("CAF", lambda data: with_bytes(data, data.index(b"data") + 4, bytes(8))),
    "w64 0": ("W64", lambda data: with_bytes(data, data.index(b"data") + 16, bytes(8))),
    "flac of a pipe": ("FLAC", lambda data: with_bytes(data, 21, bytes([data[21] & 0xF0]) + bytes(4))),
}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("how", UNFINISHED)
def test_the_samples_of_an_interrupted_recorder(how: str, channels: int, tmp_path: Path) -> None:
    kind, change = UNFINISHED[how]
    data = encode(kind, channels=channels)
    path = tmp_path / "a.wav"
    path.write_bytes(change(data))
    right = open_audio(data, RATE)
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        np.testing.assert_array_equal(open_audio(source, RATE), right)
        assert count_samples(source, RATE) == len(right)
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(path, RATE, 777))), right)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM"])
def test_unfinished_wavs_of_every_encoding(subtype: str) -> None:
    data = encode("WAV", subtype)
    right = open_audio(data, RATE)
    np.testing.assert_array_equal(open_audio(sized(0)(data), RATE)[: len(right)], right)


def test_a_wav_without_a_sample_is_empty_whatever_follows() -> None:
    head = encode("WAV", samples=SAMPLES[:0])
    for tail in (b"", b"LIST" + struct.pack("<I", 4) + b"abcd"):
        data = with_bytes(head + tail, 4, struct.pack("<I", len(head + tail) - 8))
        with pytest.raises(MediaError, match="has 0 samples"):
            open_audio(data, RATE)


# --- what stands under a false name

PAGE = b"<!DOCTYPE html><html><title>404</title></html>" * 40


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (1, 2, 3)).save(file, "JPEG")
    return file.getvalue()


def of_noise() -> bytes:
    return np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()


FALSE = {
    "page": (PAGE, "it is a web page, which was saved in place of the file"),
    "page with a mark": (b"\xef\xbb\xbf\r\n" + PAGE, "it is a web page"),
    "tagged page": (b"ID3\x04\0\0\0\0\0\0" + PAGE, "Format not recognised"),
    "page after a header": (b"\xff\xfb\x90\x00" + PAGE, "its frames do not follow each other"),
    "text": (b"not here, sorry\n" * 99, "Format not recognised"),
    "noise": (of_noise(), "Format not recognised"),
    "picture": (picture(), "Format not recognised|frames do not follow"),
    "nothing": (b"", "it is empty"),
    "zeros": (bytes(5000), "Format not recognised"),
}
SCRIPT = """
import sys
from mlx_mm.errors import MediaError
from mlx_mm.processing.audio import open_audio
for path in sys.argv[1:]:
    for source in (path, open(path, "rb").read()):
        try:
            open_audio(source, 48000)
        except MediaError:
            pass
"""


@pytest.mark.parametrize("ending", ["mp3", "wav", "raw", "sd2"])
@pytest.mark.parametrize("kind", FALSE)
def test_files_under_a_false_name(kind: str, ending: str, tmp_path: Path) -> None:
    data, words = FALSE[kind]
    path = tmp_path / f"a.{ending}"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(MediaError, match=rf"cannot be read as a sound \(.*({words}).*\); expected"):
            open_audio(source, RATE)


def test_nothing_is_written_to_stderr_about_them(tmp_path: Path) -> None:
    """libmpg123 would, past Python: therefore a process of its own is looked at."""
    whole = encode("MP3", "MPEG_LAYER_III", samples=np.tile(SAMPLES, 6))
    files = {name: data for name, (data, _) in FALSE.items()} | {
        "cut": whole[:-300],
        "begun late": whole[333:],
        "after zeros": bytes(3000) + whole,
        "tagged": b"ID3\x04\0\0\0\0\x01\0" + bytes(128) + whole[:-300],
    }
    for name, data in files.items():
        (tmp_path / f"{name}.mp3").write_bytes(data)
    paths = [tmp_path / f"{name}.mp3" for name in files]
    run = subprocess.run([sys.executable, "-c", SCRIPT, *paths], capture_output=True, timeout=100, env=os.environ)
    assert (run.returncode, run.stderr) == (0, b"")


def test_what_stands_before_the_frames_of_an_mp3(tmp_path: Path) -> None:
    whole = encode("MP3", "MPEG_LAYER_III", samples=np.tile(SAMPLES, 6))
    right = open_audio(whole, RATE)
    for before in (bytes(3000), b"junk" * 50, b"ID3\x04\0\0\0\0\x01\0" + bytes(128), b"ID3\x04\0\0\0\0\0\0" + bytes(9)):
        path = tmp_path / "a.mp3"
        path.write_bytes(before + whole)
        for source in (path, before + whole):
            np.testing.assert_array_equal(open_audio(source, RATE), right)


# --- levels and lengths


@pytest.mark.parametrize("scale", [2**15, 2**31, 2**7, 3e37, -(2**15)])
def test_floats_in_the_range_of_integers_are_refused(scale: float) -> None:
    loud = (SAMPLES / np.abs(SAMPLES).max() * scale).astype(np.float32)
    sounds = [(loud, RATE), (loud.astype(np.float64), 44_100), (np.stack([loud, loud], 1), RATE)]
    sounds.append(encode("WAV", "FLOAT", samples=loud))  # type: ignore[arg-type]
    for source in sounds:
        with pytest.raises(MediaError, match=r"samples up to .*full scale at ±1.*±32.*32768 for 16 bits"):
            open_audio(source, RATE)


@pytest.mark.parametrize("peak", [1.0, 1.5, 4.0, 31.9])
def test_floats_above_full_scale_pass(peak: float) -> None:
    loud = (SAMPLES / np.abs(SAMPLES).max() * peak).astype(np.float32)
    np.testing.assert_array_equal(open_audio((loud, RATE), RATE), loud)


def test_integers_are_taken_as_they_are() -> None:
    codes = np.array([-32768, 0, 32767], np.int16)
    assert open_audio((codes, RATE), RATE).tolist() == [-1, 0, 32767 / 32768]


@pytest.mark.parametrize("rate", [10**400, 2e9, float("inf"), -(10**400)])
def test_rates_that_no_sound_has(rate: float) -> None:
    with pytest.raises(MediaError, match="sampling rate is"):
        open_audio((SAMPLES, rate), RATE)


def test_a_sound_that_is_too_long_to_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MOST_SAMPLES", 8999)
    for source in ((SAMPLES, RATE), encode("FLAC")):
        with pytest.raises(MediaError, match=r"more than 8,999 samples at 48000 Hz.*windows"):
            open_audio(source, RATE)
    assert sum(len(block) for block in stream_audio(encode("FLAC"), RATE, 1000)) == 9000


def test_many_channels_are_decoded_a_few_samples_at_a_time() -> None:
    """1,024 channels of a quarter of a million samples would be a gigabyte."""
    import tracemalloc

    data = encode("WAV", "PCM_U8", 1000, samples=np.zeros(20_000, np.float32))
    tracemalloc.start()
    try:
        assert len(open_audio(data, RATE)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
