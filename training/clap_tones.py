"""Sounds with a pitch: signals, bells, horns, instruments, whistles. Each function draws one sound of its class."""

import numpy as np
from clap_signals import (
    Draw,
    band,
    burst,
    even,
    fade,
    in_turn,
    lay,
    length,
    partials,
    rhythm,
    rich,
    silence,
    sine,
    times,
)

SCALE = (0, 2, 4, 5, 7, 9, 11, 12, 14, 16)  # major, in semitones


def melody(d: Draw, lowest: float, notes: int) -> list[float]:
    """Frequencies in Hz of a random walk on a scale."""
    place, found = d.count(0, 6), []
    for _ in range(notes):
        place = int(np.clip(place + d.count(-3, 3), 0, len(SCALE) - 1))
        found.append(lowest * 2 ** (SCALE[place] / 12))
    return found


def repeated(wave: np.ndarray, pause: float, times_: int) -> np.ndarray:
    return in_turn([wave, silence(pause)] * times_)


def beep(d: Draw) -> np.ndarray:
    return fade(sine(d.between(250, 3500), d.between(0.8, 5)), 0.01, 0.02)


def rising_sweep(d: Draw) -> np.ndarray:
    seconds, low = d.between(0.5, 3), d.between(120, 900)
    curve = np.geomspace(low, low * d.between(3, 10), length(seconds))
    return repeated(fade(sine(curve, seconds), 0.02, 0.03), d.between(0.05, 0.6), d.count(1, 2))


def falling_sweep(d: Draw) -> np.ndarray:
    seconds, low = d.between(0.5, 3), d.between(120, 900)
    curve = np.geomspace(low * d.between(3, 10), low, length(seconds))
    return repeated(fade(sine(curve, seconds), 0.02, 0.03), d.between(0.05, 0.6), d.count(1, 2))


def dial_tone(d: Draw) -> np.ndarray:
    seconds, shift = d.between(1, 6), d.between(0.95, 1.05)
    return fade(sine(350 * shift, seconds) + sine(440 * shift, seconds), 0.01, 0.02)


def busy_signal(d: Draw) -> np.ndarray:
    shift, on = d.between(0.95, 1.05), d.between(0.25, 0.55)
    tone = fade(sine(480 * shift, on) + sine(620 * shift, on), 0.005, 0.005)
    return repeated(tone, on, d.count(3, 6))


def phone_ring(d: Draw) -> np.ndarray:
    seconds, pitch, rate = d.between(0.8, 2), d.between(900, 1700), d.between(18, 28)
    stroke = partials(0.3, [pitch, pitch * 1.26, pitch * 2.7, pitch * 3.4], [0.2, 0.2, 0.1, 0.06], [1, 0.9, 0.5, 0.4])
    ring = lay(seconds + 0.3, [(at, stroke * d.near(1, 0.1)) for at in rhythm(d, seconds, rate, 0.01)])
    return repeated(ring, d.between(0.4, 1.2), d.count(1, 2))


def touch_tones(d: Draw) -> np.ndarray:
    on, off = d.between(0.08, 0.25), d.between(0.05, 0.2)
    rows, columns = (697, 770, 852, 941), (1209, 1336, 1477)
    keys = [sine(rows[d.count(0, 3)], on) + sine(columns[d.count(0, 2)], on) for _ in range(d.count(5, 11))]
    return in_turn([part for key in keys for part in (fade(key, 0.003, 0.003), silence(off))])


def morse(d: Draw) -> np.ndarray:
    pitch, unit, parts = d.between(450, 1100), d.between(0.045, 0.11), []
    for _ in range(d.count(4, 9)):
        for _ in range(d.count(1, 4)):
            parts += [fade(sine(pitch, unit * (3 if d.chance(0.5) else 1)), 0.004, 0.004), silence(unit)]
        parts.append(silence(2 * unit))
    return in_turn(parts)


def church_bell(d: Draw) -> np.ndarray:
    pitch, decay = d.between(180, 650), d.between(0.8, 2.5)
    ratios = [0.5, 1, 1.19, 1.5, 2, 2.67, 3, 4.1]
    lasts = [decay * s for s in (1.6, 1, 0.8, 0.6, 0.5, 0.3, 0.25, 0.15)]
    stroke = partials(4, [pitch * d.near(r, 0.005) for r in ratios], lasts, [0.6, 1, 0.8, 0.5, 0.8, 0.4, 0.4, 0.3])
    gap = d.between(0.9, 2.2)
    return lay(gap * 2 + 1, [(0.02 + k * gap, stroke) for k in range(d.count(1, 3))])


def wind_chimes(d: Draw) -> np.ndarray:
    seconds, low = d.between(2, 6), d.between(900, 1800)
    tubes = [low * 2 ** (s / 12) for s in (0, 2, 4, 7, 9, 12)]
    events = []
    for at in np.sort(d.rng.random(max(4, int(seconds * d.between(2, 6))))) * seconds:
        pitch = tubes[d.count(0, 5)]
        events.append((at, partials(1.2, [pitch, 2.76 * pitch], [0.4, 0.12], [1, 0.4]) * d.near(0.7, 0.4)))
    return lay(seconds + 0.8, events)


def siren(d: Draw) -> np.ndarray:
    """Wails up and down."""
    seconds, low, rate = d.between(3, 7), d.between(400, 800), d.between(0.18, 0.7)
    wave = 0.5 - 0.5 * np.cos(2 * np.pi * (rate * times(seconds) + d.rng.random()))
    return rich(low * d.between(1.7, 2.6) ** wave, seconds, [1, 0.4, 0.3, 0.15])


def two_tone_siren(d: Draw) -> np.ndarray:
    low, each, ratio = d.between(380, 700), d.between(0.35, 0.8), d.between(1.25, 1.5)
    strengths = [1, 0.5, 0.4, 0.25, 0.15]
    pair = [fade(rich(pitch, each, strengths), 0.01, 0.01) for pitch in (low * ratio, low)]
    return in_turn(pair * d.count(2, 4))


def alarm_clock(d: Draw) -> np.ndarray:
    """Four short beeps, a pause, and again."""
    pitch, unit = d.between(1400, 3200), d.between(0.05, 0.1)
    tone = in_turn([fade(rich(pitch, unit, [1, 0, 0.3]), 0.003, 0.003), silence(unit)])
    return repeated(in_turn([tone] * d.count(3, 4)), d.between(0.3, 0.6), d.count(3, 5))


def buzzer(d: Draw) -> np.ndarray:
    pitch, seconds = d.between(90, 220), d.between(0.4, 1.6)
    tone = np.tanh(3 * rich(pitch, seconds, 1 / np.arange(1, 30) ** 0.6))
    return repeated(fade(tone, 0.005, 0.01), d.between(0.15, 0.5), d.count(1, 3))


def car_horn(d: Draw) -> np.ndarray:
    pitch, seconds = d.between(320, 480), d.between(0.25, 1.4)
    strengths = 1 / np.arange(1, 16) ** 0.7
    both = rich(pitch, seconds, strengths) + rich(pitch * d.between(1.18, 1.3), seconds, strengths)
    return repeated(fade(both, 0.02, 0.05), d.between(0.1, 0.5), d.count(1, 3))


def ship_horn(d: Draw) -> np.ndarray:
    pitch, seconds = d.between(65, 150), d.between(1.5, 4)
    wave = rich(pitch, seconds, 1 / np.arange(1, 18) ** 0.9) + 0.3 * band(d.noise(seconds), 100, 500)
    return repeated(fade(wave, 0.25, 0.5), d.between(0.3, 0.8), d.count(1, 2))


def train_whistle(d: Draw) -> np.ndarray:
    pitch, seconds = d.between(420, 720), d.between(0.6, 2.2)
    bend = pitch * (1 - 0.1 * np.exp(-times(seconds) / 0.08))
    chord = sum(rich(bend * ratio, seconds, [1, 0.5, 0.25, 0.1]) for ratio in (1, 1.25, 1.5, 1.78))
    wave = even(chord) + d.between(0.15, 0.5) * even(band(d.noise(seconds), 1000, 8000, 1))
    return repeated(fade(wave, 0.06, 0.12), d.between(0.15, 0.4), d.count(1, 3))


def laser(d: Draw) -> np.ndarray:
    top, seconds, rate = d.between(2000, 7000), d.between(0.12, 0.35), d.between(2, 5)
    shot = rich(np.geomspace(top, top / d.between(8, 25), length(seconds)), seconds, [1, 0.5, 0.3])
    shot = fade(shot, 0.002, seconds * 0.6)
    return lay(0.5 + d.count(1, 5) / rate, [(k / rate, shot) for k in range(d.count(2, 6))])


def sonar(d: Draw) -> np.ndarray:
    pitch, decay, gap = d.between(700, 1700), d.between(0.35, 0.9), d.between(1.4, 2.8)
    ping = partials(2.5, [pitch, pitch * 1.003, 2 * pitch], [decay, decay, decay / 3], [1, 0.5, 0.1])
    return lay(gap * d.count(1, 3), [(0.02 + k * gap, ping) for k in range(3)])


def computer_beeps(d: Draw) -> np.ndarray:
    """Short tones of random pitch, as computers have them in old films."""
    unit, low = d.between(0.05, 0.13), d.between(400, 900)
    pitches = low * 6 ** d.rng.random(d.count(10, 30))
    return in_turn([fade(rich(pitch, unit, [1, 0, 0.3, 0, 0.1]), 0.004, 0.004) for pitch in pitches])


def music_box(d: Draw) -> np.ndarray:
    rate, decay = d.between(2.5, 6), d.between(0.3, 0.8)
    events = []
    for k, pitch in enumerate(melody(d, d.between(900, 1500), d.count(6, 14))):
        note = partials(1.2, [pitch, 2 * pitch, 5.4 * pitch], [decay, decay / 2, 0.03], [1, 0.25, 0.25])
        events.append((0.02 + k / rate, note))
    return lay(len(events) / rate + 0.8, events)


def guitar(d: Draw) -> np.ndarray:
    rate, decay, pick = d.between(1, 5), d.between(0.4, 1.2), d.between(0.1, 0.4)
    events = []
    for k, pitch in enumerate(melody(d, d.between(110, 260), d.count(3, 9))):
        numbers = [n for n in range(1, 24) if n * pitch < 10_000]
        note = partials(
            1.8,
            [n * pitch * (1 + 0.0002 * n * n) for n in numbers],
            [decay / n**0.7 for n in numbers],
            [abs(np.sin(np.pi * n * pick)) / n for n in numbers],
        )
        events.append((0.02 + k / rate, note))
    return lay(len(events) / rate + 1, events)


def organ(d: Draw) -> np.ndarray:
    root, each = d.between(110, 330), d.between(0.8, 2.2)
    stops = [1, 0.8, 0.3, 0.6, 0, 0.2, 0, 0.4]
    chords = []
    for _ in range(d.count(1, 3)):
        base = root * 2 ** (SCALE[d.count(0, 5)] / 12)
        chord = sum(rich(base * 2 ** (s / 12), each, stops) for s in (0, 4 if d.chance(0.6) else 3, 7, 12))
        chords.append(fade(chord, 0.03, 0.05))
    return in_turn(chords)


def flute(d: Draw) -> np.ndarray:
    each, vibrato, breath = d.between(0.25, 0.8), d.between(4, 6.5), d.between(0.08, 0.3)
    notes = []
    for pitch in melody(d, d.between(450, 800), d.count(3, 8)):
        at = times(each)
        tone = rich(pitch * (1 + 0.008 * np.sin(2 * np.pi * vibrato * at)), each, [1, 0.25, 0.08, 0.02])
        notes.append(fade(even(tone) + breath * even(band(d.noise(each), pitch, pitch * 5, 1)), 0.05, 0.06))
    return in_turn(notes)


def violin(d: Draw) -> np.ndarray:
    each, vibrato, bright = d.between(0.4, 1.4), d.between(5, 7), d.between(0.7, 1.1)
    notes = []
    for pitch in melody(d, d.between(200, 450), d.count(2, 6)):
        curve = pitch * (1 + 0.012 * np.sin(2 * np.pi * vibrato * times(each)))
        tone = rich(curve, each, 1 / np.arange(1, 26) ** bright)
        notes.append(fade(even(tone) + 0.08 * even(band(d.noise(each), 1500, 7000, 1)), 0.1, 0.08))
    return in_turn(notes)


def trumpet(d: Draw) -> np.ndarray:
    each, peak = d.between(0.18, 0.7), d.between(900, 1700)
    notes = []
    for pitch in melody(d, d.between(230, 400), d.count(3, 8)):
        strengths = [np.exp(-(((np.log2((n + 1) * pitch / peak)) / 1.1) ** 2)) for n in range(20)]
        notes.append(fade(even(rich(pitch, each, strengths)), 0.03, 0.04))
    return in_turn(notes)


def xylophone(d: Draw) -> np.ndarray:
    rate, decay = d.between(3, 8), d.between(0.06, 0.16)
    events = []
    for k, pitch in enumerate(melody(d, d.between(350, 700), d.count(6, 16))):
        note = partials(0.7, [pitch, 3 * pitch, 6.2 * pitch], [decay, decay / 2, decay / 5], [1, 0.4, 0.3])
        events.append((0.02 + k / rate, lay(0.7, [(0, note), (0, 0.2 * burst(d, 0.05, 0.004))])))
    return lay(len(events) / rate + 0.5, events)


def whistling(d: Draw) -> np.ndarray:
    """A person whistling a tune: nearly pure tones that slide into each other."""
    rate, pitches = d.between(1.8, 4), melody(d, d.between(900, 1500), d.count(4, 10))
    seconds = len(pitches) / rate
    place = np.clip(times(seconds) * rate, 0, len(pitches) - 1)
    whole = np.floor(place)
    place = whole + np.clip((place - whole - 0.7) / 0.3, 0, 1)
    curve = np.interp(place, np.arange(len(pitches)), pitches) * (1 + 0.006 * np.sin(2 * np.pi * 5 * times(seconds)))
    loud = 0.55 + 0.45 * np.cos(2 * np.pi * rate * times(seconds))
    return fade(sine(curve, seconds) * loud + 0.02 * band(d.noise(seconds), 1000, 6000, 1), 0.05, 0.08)


def referee_whistle(d: Draw) -> np.ndarray:
    seconds, pitch, rate = d.between(0.25, 1.2), d.between(2200, 3800), d.between(25, 55)
    trill = np.sin(2 * np.pi * rate * times(seconds))
    wave = sine(pitch * (1 + 0.03 * trill), seconds) * (0.6 + 0.4 * trill)
    wave = wave + 0.6 * sine(pitch * 1.07, seconds) + 0.2 * band(d.noise(seconds), 2000, 9000, 1)
    return repeated(fade(wave, 0.01, 0.03), d.between(0.08, 0.4), d.count(1, 3))


SOUNDS = (
    *(beep, rising_sweep, falling_sweep, dial_tone, busy_signal, phone_ring, touch_tones, morse, church_bell),
    *(wind_chimes, siren, two_tone_siren, alarm_clock, buzzer, car_horn, ship_horn, train_whistle, laser, sonar),
    *(computer_beeps, music_box, guitar, organ, flute, violin, trumpet, xylophone, whistling, referee_whistle),
)
