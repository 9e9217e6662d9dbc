"""Open, resample, pad and measure sounds: small functions on NumPy arrays.

Samples are float32 (N,), one channel, full scale at ±1. Rates are in Hz, mel spectrograms are (frames, filters).
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import soxr

from mlx_mm.errors import InputError, MediaError
from mlx_mm.processing.arguments import unpacked
from mlx_mm.processing.batch import as_list
from mlx_mm.processing.sound_files import HIGHEST_RATE, LOWEST_RATE, Sound, open_sound, unreadable
from mlx_mm.processing.sources import SOUND, EncodedSource, source_of

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
MelPowers: TypeAlias = Callable[[Doubles, Doubles, int], Callable[[Floats], Doubles]]
AudioSource: TypeAlias = EncodedSource | tuple[npt.NDArray[Any], float]

MOST_CHANNELS = 32  # what an axis of channels may hold, to tell it from the axis of samples
FLOOR = 1e-10  # of a power, before its logarithm: -100 dB (transformers' mel_floor)

SAMPLES_PER_READ = 2**18  # samples per channel decoded at once: 2 MiB of stereo
FRAMES_PER_BLOCK = 96  # spectrogram frames at once; they stay in a processor's cache, and fill vectors of any size
# Of float samples: 30 dB over full scale, more than mixing, resampling or a recorder of floats leaves over it. Integers
# that were made floats without being scaled pass it at a whisper: of 16 bits it is -60 dB.
MOST_LEVEL = 32
MOST_SAMPLES = 3600 * 48_000  # that are held as a whole: 0.7 GB
# Less than this share of what its header promises, and a sound counts as cut off. MP3 files without a table of
# contents promise an estimate, which was 2 % too high for a file of a constant bit rate.
_COMPLETE = 0.95

# PCM types -> the value of silence, the value of full scale.
_PCM = {np.dtype(np.int16): (0, 2**15), np.dtype(np.int32): (0, 2**31), np.dtype(np.uint8): (2**7, 2**7)}


# --- opening


def as_audio(audio: AudioSource | Iterable[AudioSource]) -> list[AudioSource]:
    """One sound or several as a list; InputError for none."""
    items = cast("Iterable[AudioSource]", unpacked(audio))
    return as_list(items, "audio", (str, bytes, bytearray, memoryview, tuple, np.ndarray))


def open_audio(source: AudioSource, sampling_rate: int) -> Floats:
    """Read one sound as samples (N,) at `sampling_rate`; they may be the given array itself.

    source: path, http(s) URL, data URI, encoded bytes or open file of wav, flac, ogg, mp3 and whatever else libsndfile
    decodes (of m4a, mp4, webm and wma with PyAV, an extra), or the tuple (samples, their rate). Samples are (N,), or
    have an axis of channels before or after: the axis of length 1, or else the one that holds at most 32 where the
    other holds more. They are floats with full scale at ±1, up to MOST_LEVEL of it, or PCM of int16, int32 or uint8,
    which is scaled.
    Channels are averaged, then soxr HQ resamples, then the sound is ceil(N·new/old) long: the steps of
    librosa.load and of transformers' loader. Raises MediaError for what cannot be read, is empty, too loud, not finite
    or longer than MOST_SAMPLES.
    """
    pieces: list[Floats] = []
    size = 0
    for piece in _resampled(source, sampling_rate, 2**20):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_SAMPLES:
            raise MediaError(
                f"A sound has more than {MOST_SAMPLES:,} samples at {sampling_rate} Hz, which are not held at once; "
                'expected at most that. Give a part of it, or take truncation="windows".'
            )
    return pieces[0] if len(pieces) == 1 else _joined(pieces, size)


def reusable(source: AudioSource) -> AudioSource:
    """The same sound in a form that can be opened as often as needed; what can be read only once is read here."""
    return source if isinstance(source, tuple) else source_of(source, SOUND) or source


def stream_audio(source: AudioSource, sampling_rate: int, block: int) -> Iterator[Floats]:
    """The samples of `open_audio`, to the last bit, in blocks of `block`; the last may be shorter.

    Nothing longer than a block and a second or so is held. Errors in the middle of a file come in the middle.
    """
    rest = np.empty(0, np.float32)
    for piece in _resampled(source, sampling_rate, SAMPLES_PER_READ):
        rest = np.concatenate([rest, piece]) if rest.size else piece
        while rest.size >= block:
            yield rest[:block]
            rest = rest[block:]
    if rest.size:
        yield rest


def count_samples(source: AudioSource, sampling_rate: int) -> int:
    """How many samples `open_audio` gives, by the file's header; of MP3 files without a table an estimate."""
    sound = _open(source)
    # Where no header tells, it is decoded for nothing else
    count = sound.count or sum(len(block) for block in sound.read(SAMPLES_PER_READ))
    return math.ceil(count * sampling_rate / sound.rate)


def seconds_of(source: AudioSource) -> float:
    """How long a sound is, by its header; one whose header does not tell is decoded for it."""
    sound = _open(source)
    return (sound.count or sum(len(block) for block in sound.read(SAMPLES_PER_READ))) / sound.rate


def _resampled(source: AudioSource, sampling_rate: int, size: int) -> Iterator[Floats]:
    """Pieces of one channel at `sampling_rate`, of about `size` samples before they are resampled."""
    sound = _open(source)
    name, rate, count = sound.name, sound.rate, sound.count
    # Streaming gives the bits of soxr.resample in one go, whatever the size of the pieces.
    stream = None if rate == sampling_rate else soxr.ResampleStream(rate, sampling_rate, 1, "float32", "HQ")
    taken = made = 0
    for block in sound.read(size):
        piece = _mono(block)
        _check_level(piece, name)
        taken += len(piece)
        if stream is not None:
            piece = stream.resample_chunk(piece)
            made += len(piece)
        if piece.size:
            yield piece
    if taken < count * _COMPLETE or not taken:
        raise unreadable(name, f"ends after {taken} of {count} samples")
    if stream is not None:
        left = math.ceil(taken * sampling_rate / rate) - made
        last = stream.resample_chunk(np.empty(0, np.float32), last=True)[:left]
        yield np.pad(last, (0, left - len(last)))  # soxr gives one sample fewer at some lengths


def _check_level(piece: Floats, name: str) -> None:
    peak = max(piece.max(initial=0), -piece.min(initial=0))
    if not np.isfinite(peak):
        raise MediaError(f"{name} has NaN or infinite samples; expected numbers. Repair it, or leave it out.")
    if peak > MOST_LEVEL:
        raise MediaError(
            f"{name} has samples up to {peak:g}; expected floats with full scale at ±1, and nothing beyond "
            f"±{MOST_LEVEL}, 30 dB over it. Give integers as they are, or divide by full scale, 32768 for 16 bits."
        )


def _joined(pieces: list[Floats], size: int) -> Floats:
    """One array, while the pieces go."""
    whole, place = np.empty(size, np.float32), 0
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        whole[place : place + len(piece)] = piece
        place += len(piece)
    return whole


def _open(source: AudioSource) -> Sound:
    if isinstance(source, tuple):
        return _open_array(*source) if len(source) == 2 else _open_array(source, None)
    found = source_of(source, SOUND)
    if found is None:
        raise MediaError(
            f"A sound was given as {type(source).__name__}; expected a path, URL, data URI, encoded bytes, open file, "
            "or samples together with their rate: (samples, sampling_rate). Convert it to one of these."
        )
    return open_sound(found)


def _open_array(samples: Any, rate: Any) -> Sound:
    number = isinstance(rate, int | float | np.integer | np.floating)
    if not number or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        shown = rate if number and rate < HIGHEST_RATE else repr(rate)[:50]
        raise MediaError(
            f"The sampling rate is {shown}; expected a number of at least {LOWEST_RATE} Hz. Give a sound as the "
            "tuple (samples, sampling_rate)."
        )
    try:
        values = np.asarray(samples)
    except ValueError as error:
        raise MediaError(f"The samples are no array ({error}); expected one. Convert them.") from error
    name = f"the array of shape {values.shape}"
    if values.dtype not in _PCM and values.dtype.kind != "f":
        raise MediaError(
            f"{name} has dtype {values.dtype}; expected floats in ±1, or PCM of int16, int32 or uint8. Convert it."
        )
    if values.ndim not in (1, 2) or not values.size:
        raise MediaError(f"{name} is no sound; expected (N,), (N, channels) or (channels, N), not empty. Convert it.")
    if values.ndim == 1:
        values = values[:, None]
    rows, columns = values.shape
    # One column is a channel whatever the rows are, then one row is.
    few = (columns == 1, rows == 1) if 1 in (rows, columns) else (columns <= MOST_CHANNELS, rows <= MOST_CHANNELS)
    if few[0] == few[1] and values.size > 1:
        raise MediaError(
            f"{name} could be channels of samples either way; expected one axis of at most {MOST_CHANNELS} channels "
            "and a longer one of samples. Average the channels yourself and give (N,)."
        )
    values = values if few[0] else values.T
    read = lambda size: (values[i : i + size] for i in range(0, len(values), size))  # noqa: E731
    return Sound(name, float(rate), len(values), read)


def _mono(block: npt.NDArray[Any]) -> Floats:
    """(n, channels) of any accepted dtype -> their mean (n,), the same bits for either order of the axes."""
    if block.dtype in _PCM:
        silence, full = _PCM[block.dtype]
        block = ((block.astype(np.float64) - silence) / full).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as not finite
        block = block.astype(np.float32, copy=False)
        if block.shape[1] == 1:
            return np.ascontiguousarray(block[:, 0])
        total = block[:, 0].copy()
        for channel in block.T[1:]:
            total += channel
        return np.divide(total, block.shape[1], dtype=np.float32)


# --- length


def fill(samples: Floats, length: int, padding: str) -> Floats:
    """Samples (length,) from at least one and at most as many; as in transformers' ClapFeatureExtractor.

    padding: "repeat" up to the end, "repeatpad" as often as it fits whole and then silence, "pad" with silence.
    """
    times = {"repeat": -(-length // len(samples)), "repeatpad": length // len(samples), "pad": 1}
    if padding not in times:
        raise InputError(f'padding is {padding!r}; expected "repeat", "repeatpad" or "pad". Leave it out.')
    if len(samples) == length:
        return samples
    filled = np.zeros(length, samples.dtype)
    repeated = np.tile(samples, times[padding])[:length]
    filled[: len(repeated)] = repeated
    return filled


def resize_time(mel: Floats, frames: int) -> Floats:
    """(T, F) -> (frames, F), linear between frames whose centres are half-pixel ones, without antialiasing.

    The bits of torch's interpolate: positions and weights are float32 (which moves the result by up to 2e-3 dB), and
    both sums come from fused multiply-adds, whose product, here exact in float64, is not rounded.
    """
    scale = np.float64(np.float32(len(mel)) / np.float32(frames))
    where = np.maximum((scale * (np.arange(frames) + 0.5) - 0.5).astype(np.float32), 0)
    low = np.minimum(where.astype(np.int64), len(mel) - 1)
    weight = (where - low.astype(np.float32))[:, None]
    after = weight * mel[np.minimum(low + 1, len(mel) - 1)]
    return ((1 - weight).astype(np.float64) * mel[low] + after).astype(np.float32)


# --- spectrogram


def _hz_to_mel_htk(hz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hz / 700.0))


def _mel_to_hz_htk(mel: Doubles) -> Doubles:
    return 700.0 * (np.power(10, mel / 2595.0) - 1.0)


def _hz_to_mel_slaney(hz: float) -> float:
    """Linear up to 1000 Hz, which are 15 mels; above it 27 mels for each factor of 6.4 (Auditory Toolbox, 1998)."""
    return 3.0 * hz / 200.0 if hz < 1000.0 else float(15.0 + np.log(hz / 1000.0) * (27.0 / np.log(6.4)))


def _mel_to_hz_slaney(mel: Doubles) -> Doubles:
    return np.where(mel < 15.0, 200.0 * mel / 3.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)))


_SCALES = {"htk": (_hz_to_mel_htk, _mel_to_hz_htk), "slaney": (_hz_to_mel_slaney, _mel_to_hz_slaney)}


@functools.lru_cache(maxsize=8)
def mel_bank(scale: str, filters: int, fft_size: int, sampling_rate: int, lowest: float, highest: float) -> Doubles:
    """Triangular filters (fft_size // 2 + 1, filters) between two frequencies in Hz, read-only.

    scale: "htk", whose peaks are 1 (torchaudio's default), or "slaney", whose areas are equal (librosa's default).
    """
    to_mel, to_hz = _SCALES[scale]
    edges = to_hz(np.linspace(to_mel(lowest), to_mel(highest), filters + 2))
    bins = np.linspace(0, sampling_rate // 2, fft_size // 2 + 1)
    widths = np.diff(edges)
    above = edges - bins[:, None]
    bank = np.maximum(0, np.minimum(-above[:, :-2] / widths[:-1], above[:, 2:] / widths[1:]))
    if scale == "slaney":
        bank *= 2.0 / (edges[2:] - edges[:-2])
    bank.flags.writeable = False  # it is kept for the next call
    return bank


def log_mel(samples: Floats, bank: Doubles, fft_size: int, hop: int, make_powers: MelPowers | None = None) -> Floats:
    """Mel spectrogram in dB, (1 + N // hop, filters), of frames of `fft_size` samples under a periodic Hann window.

    The recipe of transformers' spectrogram(power=2, log_mel="dB"): reflected edges, float64 throughout, spectra
    rounded to complex64, no limit on the range. A float32 transform would be wrong by 0.1 dB where a band is nearly
    silent. Frames are taken a few at a time, so that an hour needs little more than its result.
    make_powers: what stands in for `mel_powers`.
    """
    powers = (make_powers or mel_powers)(bank, np.hanning(fft_size + 1)[:-1], hop)
    half = fft_size // 2
    count = 1 + (len(samples) + 2 * half - fft_size) // hop
    result = np.empty((count, bank.shape[1]), np.float32)
    for i in range(0, count, FRAMES_PER_BLOCK):
        rows = result[i : i + FRAMES_PER_BLOCK]
        start = i * hop - half
        mel = powers(_reflected(samples, start, start + (len(rows) - 1) * hop + fft_size))
        np.log10(np.maximum(mel, FLOOR, out=mel), out=mel)
        np.multiply(mel, 10, out=rows, casting="same_kind")
    return result


def mel_powers(bank: Doubles, window: Doubles, hop: int) -> Callable[[Floats], Doubles]:
    """What gives the power of samples (N,) in frames under a window, summed under filters (bins, filters)."""
    bands, size = _bands(bank), len(window)
    first, last = min(bins.start for _, bins, _ in bands), max(bins.stop for _, bins, _ in bands)

    def powers(samples: Floats) -> Doubles:
        piece = samples.astype(np.float64)
        step = piece.strides[0]
        # as_strided costs less than sliding_window_view; the piece ends where the last frame does.
        shape = 1 + (len(piece) - size) // hop, size
        frames = np.lib.stride_tricks.as_strided(piece, shape, (hop * step, step), writeable=False)
        spectrum = np.fft.rfft(frames * window).view(np.float64)[:, 2 * first : 2 * last]
        parts = spectrum.astype(np.float32).astype(np.float64)  # the rounding to complex64
        parts *= parts
        power = parts[:, ::2] + parts[:, 1::2]
        mel = np.empty((len(frames), bank.shape[1]))
        for filters, bins, weights in bands:
            mel[:, filters] = power[:, bins.start - first : bins.stop - first] @ weights
        return mel

    return powers


def _bands(bank: Doubles) -> list[tuple[slice, slice, Doubles]]:
    """A bank in groups of neighbouring filters, with the bins that they touch: a third of it is left to multiply."""
    bands = []
    for start in range(0, bank.shape[1], 16):
        filters = slice(start, start + 16)
        used = np.flatnonzero(bank[:, filters].any(axis=1))
        bins = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1)
        bands.append((filters, bins, np.ascontiguousarray(bank[bins, filters])))
    return bands


def _reflected(samples: Floats, start: int, stop: int) -> Floats:
    """samples[start:stop], mirrored at both ends as often as it takes, the end samples not repeated."""
    count = len(samples)
    inside = samples[max(start, 0) : max(stop, 0)]
    if len(inside) == stop - start:
        return inside
    period = max(2 * (count - 1), 1)
    before, after = (np.arange(*ends) % period for ends in ((start, min(stop, 0)), (max(start, count), stop)))
    sides = (samples[np.minimum(places, period - places)] for places in (before, after))
    return np.concatenate([next(sides), inside, next(sides)])
