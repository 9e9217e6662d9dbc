"""What sounds are made of: drawn parameters, noise, glides, decaying partials, events in time, rooms.

Waves are float32 (N,) at 48 kHz.
"""

import numpy as np

RATE = 48_000
# Shares of each parameter's range (of its logarithm) that training never sees and that only measuring draws from.
HELD_OUT = ((0.30, 0.38), (0.62, 0.70))


class Draw:
    """Draws the parameters of one sound: those of training, or those that are held out from it."""

    def __init__(self, rng: np.random.Generator, held_out: bool = False):
        self.rng, self.held_out = rng, held_out

    def between(self, low: float, high: float) -> float:
        """A number between two positive ones, evenly by its logarithm."""
        while True:
            share = self.rng.random()
            if self.held_out:
                first, last = HELD_OUT[self.rng.integers(len(HELD_OUT))]
                share = first + share * (last - first)
            if self.held_out or not any(first <= share < last for first, last in HELD_OUT):
                return float(low * (high / low) ** share)

    def count(self, low: int, high: int) -> int:
        """low to high, both of them possible."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def near(self, value: float, spread: float = 0.05) -> float:
        """A value as it varies within one sound, from event to event; not held out."""
        return float(value * np.exp(spread * self.rng.standard_normal()))

    def noise(self, seconds: float) -> np.ndarray:
        return self.rng.standard_normal(length(seconds), dtype=np.float32)

    def wander(self, seconds: float, rate: float) -> np.ndarray:
        """A random curve from 0 to 1 that turns about `rate` times a second."""
        knots = self.rng.random(max(4, int(seconds * rate) + 3))
        at = np.linspace(0, len(knots) - 1, length(seconds))
        return np.interp(at, np.arange(len(knots)), knots).astype(np.float32)


def length(seconds: float) -> int:
    return max(480, round(seconds * RATE / 480) * 480)


def times(seconds: float) -> np.ndarray:
    return np.arange(length(seconds), dtype=np.float32) / RATE


def glide(frequency: np.ndarray | float, count: int) -> np.ndarray:
    """The phase in cycles, kept small, of a frequency in Hz that may change."""
    steps = np.broadcast_to(np.float64(frequency) / RATE, (count,))
    return (np.cumsum(steps) % 4096).astype(np.float32)


def sine(frequency: np.ndarray | float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * glide(frequency, length(seconds)))


def rich(frequency: np.ndarray | float, seconds: float, strengths: list[float] | np.ndarray) -> np.ndarray:
    """A tone of harmonics, none of them above 12 kHz."""
    count = length(seconds)
    phase, top = glide(frequency, count), float(np.max(frequency))
    parts = [s * np.sin(2 * np.pi * (k + 1) * phase) for k, s in enumerate(strengths) if (k + 1) * top < 12_000]
    return np.sum(parts, axis=0, dtype=np.float32) if parts else np.zeros(count, np.float32)


def partials(seconds: float, frequencies: list[float], decays: list[float], strengths: list[float]) -> np.ndarray:
    """What is struck or plucked: decays in seconds until a partial has fallen to a third (1/e)."""
    at = times(seconds)
    wave = np.zeros(len(at), np.float32)
    for frequency, decay, strength in zip(frequencies, decays, strengths, strict=True):
        wave += np.float32(strength) * np.sin(np.float32(2 * np.pi * frequency) * at) * np.exp(-at / np.float32(decay))
    return fade(wave, 0.001, 0.01)


def burst(d: Draw, seconds: float, decay: float) -> np.ndarray:
    """Noise that dies away."""
    return d.noise(seconds) * np.exp(-times(seconds) / np.float32(decay))


def band(wave: np.ndarray, low: float, high: float, order: int = 2) -> np.ndarray:
    """What lies between two frequencies in Hz, with slopes of 6 dB an octave for each order."""
    f = np.fft.rfftfreq(len(wave), 1 / RATE)
    gain = 1 / np.sqrt((1 + (low / np.maximum(f, 1)) ** (2 * order)) * (1 + (f / high) ** (2 * order)))
    return np.fft.irfft(np.fft.rfft(wave) * gain, len(wave)).astype(np.float32)


def slope(wave: np.ndarray, power: float) -> np.ndarray:
    """White noise to noise whose strength falls as frequency ** -power: 0.5 is pink, 1 brown."""
    f = np.fft.rfftfreq(len(wave), 1 / RATE)
    return np.fft.irfft(np.fft.rfft(wave) * np.maximum(f, 20) ** -power, len(wave)).astype(np.float32)


def fade(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    """Ramps of so many seconds at both ends."""
    for seconds, part in ((start, slice(None, None)), (end, slice(None, None, -1))):
        count = min(len(wave), int(seconds * RATE))
        wave[part][:count] *= np.linspace(0, 1, count, dtype=np.float32)
    return wave


def even(wave: np.ndarray) -> np.ndarray:
    """The same at a root mean square of 1, so that parts can be weighed against each other."""
    return wave / (np.sqrt(np.mean(wave * wave)) + 1e-9)


def lay(seconds: float, events: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """Waves at their times in seconds; what sticks out is cut."""
    result = np.zeros(length(seconds), np.float32)
    for start, wave in events:
        first = int(start * RATE)
        piece = wave[: max(0, len(result) - first)]
        result[first : first + len(piece)] += piece
    return fade(result, 0, 0.005)


def in_turn(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(length(seconds), np.float32)


def rhythm(d: Draw, seconds: float, rate: float, uneven: float = 0.05) -> list[float]:
    """Times of events, `rate` a second."""
    found, at = [], 0.02 + 0.3 * d.rng.random() / rate
    while at < seconds:
        found.append(at)
        at += d.near(1 / rate, uneven)
    return found


def scatter(d: Draw, seconds: float, rate: float) -> list[float]:
    """Times without any order, about `rate` a second; never none."""
    return sorted(d.rng.random(max(1, d.rng.poisson(rate * seconds))) * seconds)


def in_room(wave: np.ndarray, d: Draw) -> np.ndarray:
    """With the echo of a random room, and a random tilt of the spectrum as microphones have it; peak 1."""
    f = np.fft.rfftfreq(len(wave) + RATE // 2, 1 / RATE)
    spectrum = np.fft.rfft(wave, len(wave) + RATE // 2)
    spectrum *= np.maximum(f / 1000, 0.05) ** d.rng.uniform(-0.2, 0.2)
    if d.chance(0.6):
        reach = d.rng.uniform(0.02, 0.12)
        echo = burst(d, 0.45, reach) * (0.6 * d.rng.random() / np.sqrt(reach * RATE / 2))
        echo[: int(d.rng.uniform(0.002, 0.02) * RATE)] = 0
        spectrum += spectrum * np.fft.rfft(echo, len(wave) + RATE // 2)
    wave = np.fft.irfft(spectrum, len(wave) + RATE // 2)[: len(wave)].astype(np.float32)
    return fade(wave, 0.001, 0.005) / (np.abs(wave).max() + 1e-9)
