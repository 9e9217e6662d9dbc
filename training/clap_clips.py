"""Spectrograms to train on: thousands of drawn sounds, mixed anew in each step.

Powers of sounds add up, so clips are mixed, placed, stretched and made louder as mel spectrograms: a training step
costs no synthesis. What is measured, in evaluate_sounds.py, are waves that were mixed as waves.
"""

from pathlib import Path

import numpy as np
import torch
from clap_signals import Draw, in_room
from clap_texts import NAMES, draw_pair, make_wave
from clap_towers import FEATURES, FRAMES

from mlx_mm.models.clap.processor import AudioSettings
from mlx_mm.processing.audio import fill

SETTINGS = AudioSettings(**FEATURES)
MELS = SETTINGS.feature_size
FLOOR = 1e-10  # of a power: the least that the processor gives


def features(wave: np.ndarray) -> np.ndarray:
    """(FRAMES, 64) in dB of a wave of up to 10 s, as the processor makes them."""
    return SETTINGS.features(fill(wave[: SETTINGS.length], SETTINGS.length, SETTINGS.padding))


class Clips:
    """frames (N, 64) float16 in dB of all clips, one after the other; a clip has bounds and a sound."""

    def __init__(self, frames: np.ndarray, bounds: np.ndarray, sounds: np.ndarray):
        self.frames, self.bounds, self.sounds = frames, bounds, sounds
        self.of_sound = [np.flatnonzero(sounds == number) for number in range(len(NAMES))]
        bank = np.random.default_rng(0)
        # A mel band of B frequency bins of noise has the power of a gamma distribution of about that shape.
        widths = np.clip(np.geomspace(1, 16, MELS), 1, None)
        self.noise = bank.gamma(widths, 1 / widths, (8192, MELS)).astype(np.float32)

    @classmethod
    def of(cls, path: Path, each: int, seed: int) -> "Clips":
        """Read from a file, which is made first where there is none; about 25 ms a clip."""
        if not path.exists():
            pieces, bounds, sounds = [], [0], []
            for number in range(each * len(NAMES)):
                sound = number % len(NAMES)
                draw = Draw(np.random.default_rng((seed, number)))
                pieces.append(SETTINGS.features(in_room(make_wave(sound, draw), draw)[: SETTINGS.length]))
                bounds.append(bounds[-1] + len(pieces[-1]))
                sounds.append(sound)
            path.parent.mkdir(parents=True, exist_ok=True)
            frames = np.concatenate(pieces).astype(np.float16)
            np.savez(path, frames=frames, bounds=np.array(bounds), sounds=np.array(sounds))
        with np.load(path) as arrays:
            return cls(arrays["frames"], arrays["bounds"], arrays["sounds"])

    def draw(self, count: int, mixed: float, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, FRAMES, 64) in dB and truth (B, sounds), shares that sum to 1. mixed: the share of mixtures."""
        rows, truth = [], torch.zeros(count, len(NAMES))
        for row in range(count):
            if rng.random() < mixed:
                pair = draw_pair(rng)
                rows.append(sum(self._placed(sound, rng) * 10 ** rng.uniform(-0.6, 0.6) for sound in pair))
                truth[row, list(pair)] = 0.5
            else:
                sound = int(rng.integers(len(NAMES)))
                rows.append(self._placed(sound, rng))
                truth[row, sound] = 1
            rows[-1] = self._recorded(rows[-1], rng)
        return torch.from_numpy(np.log10(np.maximum(np.stack(rows), FLOOR)) * 10), truth

    def _placed(self, sound: int, rng: np.random.Generator) -> np.ndarray:
        """Powers (FRAMES, 64) of a clip: repeated as the processor does, or once, or all the time."""
        choices = self.of_sound[sound]
        number = choices[rng.integers(len(choices))]
        clip = self.frames[self.bounds[number] : self.bounds[number + 1]]
        count = max(2, int(len(clip) * rng.uniform(0.85, 1.18)))
        clip = clip[np.linspace(0, len(clip) - 1, count).round().astype(int)].astype(np.float32)
        clip = 10 ** (clip[:FRAMES] / 10)
        result, way = np.zeros((FRAMES, MELS), np.float32), rng.random()
        if way < 0.5:
            whole = FRAMES // len(clip) * len(clip)
            result[:whole] = np.tile(clip, (FRAMES // len(clip), 1))
        elif way < 0.75:
            start = rng.integers(FRAMES - len(clip) + 1)
            result[start : start + len(clip)] = clip
        else:
            result[:] = clip[(np.arange(FRAMES) + rng.integers(len(clip))) % len(clip)]
        return result

    def _recorded(self, power: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """With another level, another tilt of the spectrum, and noise behind it as a rule."""
        tilt = np.linspace(-1, 1, MELS) * rng.uniform(-0.4, 0.4) - rng.uniform(0, 3.5)
        power = power * (10**tilt).astype(np.float32)
        if rng.random() < 0.75:
            loudest = np.log10(power.mean(axis=1).max() + FLOOR)
            level = loudest - rng.uniform(1.5, 6) + np.linspace(1, -1, MELS) * rng.uniform(-0.3, 1)
            start = rng.integers(len(self.noise) - FRAMES)
            power = power + self.noise[start : start + FRAMES] * (10**level).astype(np.float32)
        if rng.random() < 0.25:  # a file of a lower sampling rate, down to 8 kHz
            power[:, rng.integers(42, MELS) :] *= np.float32(10 ** rng.uniform(-8, -3))
        return power


def recorded(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wave of peak 1 at a random level, with noise 15 to 55 dB below its peak."""
    noise = rng.standard_normal(len(wave)).astype(np.float32) * np.float32(10 ** rng.uniform(-55 / 20, -25 / 20))
    return (wave + noise) * np.float32(10 ** rng.uniform(-30 / 20, 0) / 1.5)


def held_out_single(sound: int, seed: int) -> np.ndarray:
    """A wave with parameters that training never draws."""
    rng = np.random.default_rng((2, sound, seed))
    return recorded(in_room(make_wave(sound, Draw(rng, held_out=True)), Draw(rng)), rng)


def held_out_mixture(seed: int, held_out_pair: bool) -> tuple[np.ndarray, tuple[int, int]]:
    """Two such waves over each other, the shorter one repeated; the weaker one is 0 to 6 dB below."""
    rng = np.random.default_rng((3, seed, int(held_out_pair)))
    pair = draw_pair(rng, held_out_pair)
    waves = [in_room(make_wave(sound, Draw(rng, held_out=True)), Draw(rng)) for sound in pair]
    count = max(map(len, waves))
    waves = [np.tile(wave, count // len(wave) + 1)[:count] for wave in waves]
    both = waves[0] + waves[1] * np.float32(10 ** rng.uniform(-6 / 20, 0))
    return recorded(both / np.abs(both).max(), rng), pair
