"""Sounds of weather, water, machines, people and animals, in outline. Each function draws one sound of its class."""

import numpy as np
from clap_signals import (
    RATE,
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
    scatter,
    silence,
    sine,
    slope,
    times,
)


def hiss(d: Draw) -> np.ndarray:
    return fade(slope(d.noise(d.between(1.5, 8)), d.between(0.01, 0.15)), 0.02, 0.02)


def rumble(d: Draw) -> np.ndarray:
    return fade(band(slope(d.noise(d.between(1.5, 8)), 1), d.between(25, 50), d.between(150, 400)), 0.05, 0.05)


def wind(d: Draw) -> np.ndarray:
    """Noise in a band that moves as gusts come and go."""
    seconds, low = d.between(3, 9), d.between(180, 450)
    gust = d.wander(seconds, d.between(0.5, 1.5))
    noise = d.noise(seconds)
    parts = [band(noise, low * step, low * step * 1.5, 2) for step in (1, 1.7, 2.9)]
    whistle = [np.maximum(0, 1 - np.abs(3 * gust - k)) for k in range(3)]
    return fade(sum(even(p) * w for p, w in zip(parts, whistle, strict=True)) * (0.15 + gust), 0.2, 0.2)


def rain(d: Draw) -> np.ndarray:
    seconds = d.between(2, 9)
    steady = even(band(slope(d.noise(seconds), 0.2), d.between(500, 1500), 11_000, 1))
    drops = [(at, burst(d, 0.012, 0.0025) * d.near(1, 0.6)) for at in scatter(d, seconds, d.between(40, 160))]
    return fade(steady + d.between(0.5, 2) * lay(seconds, drops), 0.05, 0.05)


def thunder(d: Draw) -> np.ndarray:
    seconds = d.between(2.5, 6)
    events = [(0.05, 1.5 * burst(d, 1.5, 0.2))]
    events += [(at, burst(d, 1.5, d.near(0.4, 0.3)) * d.near(0.6, 0.4)) for at in scatter(d, seconds * 0.6, 3)]
    wave = slope(lay(seconds, events), 1) * np.exp(-times(seconds) / np.float32(seconds / 3))
    return fade(band(wave, 30, d.between(150, 500), 1), 0.03, 0.5)


def waves(d: Draw) -> np.ndarray:
    seconds, period = d.between(5, 9.5), d.between(2.5, 5)
    swell = (0.5 - 0.5 * np.cos(2 * np.pi * (times(seconds) / period + d.rng.random()))) ** 2
    noise = d.noise(seconds)
    low, high = even(band(slope(noise, 0.7), 100, 900, 1)), even(band(noise, 1200, d.between(5000, 9000), 1))
    return fade((0.1 + swell) * low + 0.7 * swell**2 * high, 0.2, 0.2)


def stream(d: Draw) -> np.ndarray:
    """Running water: many bubbles, each a short tone that rises."""
    seconds, rate, low = d.between(2, 6), d.between(40, 110), d.between(350, 700)
    events = []
    for at in scatter(d, seconds, rate):
        pitch, lasts = low * 5 ** d.rng.random(), d.rng.uniform(0.02, 0.06)
        curve = pitch * (1 + 3 * times(lasts))
        events.append((at, sine(curve, lasts) * np.exp(-times(lasts) / (lasts / 3)) * d.near(0.5, 0.5)))
    return lay(seconds, events) + 0.05 * even(band(d.noise(seconds), 400, 3000, 1))


def dripping(d: Draw) -> np.ndarray:
    seconds, rate, pitch = d.between(2, 6), d.between(0.9, 3), d.between(700, 1800)
    events = []
    for at in rhythm(d, seconds, rate, 0.25):
        start = d.near(pitch, 0.15)
        drop = sine(start * (1 + 6 * times(0.12)), 0.12) * np.exp(-times(0.12) / 0.025)
        events += [(at, 0.2 * burst(d, 0.01, 0.001)), (at + 0.01, drop)]
    return lay(seconds, events)


def fire(d: Draw) -> np.ndarray:
    seconds = d.between(2, 7)
    bed = even(band(slope(d.noise(seconds), 0.8), 60, d.between(300, 700), 1)) * (0.5 + d.wander(seconds, 3))
    events = []
    for at in scatter(d, seconds, d.between(10, 35)):
        crack = band(burst(d, 0.02, d.rng.uniform(0.0008, 0.004)), 1000, 9000, 1)
        events.append((at, crack * d.near(5, 0.7)))
    return fade(0.25 * bed + lay(seconds, events), 0.05, 0.05)


def engine(d: Draw) -> np.ndarray:
    """Runs evenly."""
    seconds, rate = d.between(2, 7), d.between(22, 55)
    turns = rate * (1 + 0.03 * (d.wander(seconds, 4) - 0.5))
    wave = rich(turns, seconds, [1, 0.9, 0.5, 0.8, 0.4, 0.5, 0.3, 0.3, 0.2, 0.2, 0.15, 0.15, 0.1, 0.1])
    puffs = np.maximum(0, sine(turns, seconds)) ** 4 * even(band(d.noise(seconds), 100, 1500, 1))
    return fade(np.tanh(even(wave)) + d.between(0.3, 0.8) * puffs, 0.1, 0.1)


def accelerating(d: Draw) -> np.ndarray:
    """A motor that speeds up, through one or two gears."""
    parts, start = [], d.between(50, 90)
    for gear in range(d.count(1, 3)):
        seconds = d.between(0.9, 2)
        turns = np.geomspace(start * 1.2**gear, start * 1.2**gear * d.between(2, 3.2), length(seconds))
        wave = np.tanh(2 * even(rich(turns, seconds, 1 / np.arange(1, 22) ** 0.6)))
        parts.append(fade(wave + 0.2 * even(band(d.noise(seconds), 300, 3000, 1)), 0.02, 0.03))
    return in_turn(parts)


def helicopter(d: Draw) -> np.ndarray:
    seconds, rate = d.between(2, 7), d.between(9, 17)
    beat = np.exp(3 * (np.sin(2 * np.pi * rate * times(seconds)) - 1))
    chop = beat * even(band(slope(d.noise(seconds), 0.5), 60, d.between(500, 1200), 1))
    turbine = 0.1 * even(band(d.noise(seconds), 1500, 5000, 1)) + 0.05 * rich(d.between(700, 1500), seconds, [1, 0.4])
    return fade(even(chop) + turbine, 0.1, 0.1)


def vacuum_cleaner(d: Draw) -> np.ndarray:
    seconds, pitch = d.between(2, 7), d.between(180, 380)
    start = 1 - 0.5 * np.exp(-times(seconds) / 0.15) * d.chance(0.5)
    whine = rich(pitch * start, seconds, [1, 0.6, 0.8, 0.3, 0.4, 0.2, 0.3, 0.1, 0.2])
    return fade(even(whine) + d.between(0.6, 1.3) * even(band(d.noise(seconds), 300, 6000, 1)), 0.1, 0.15)


def drum(d: Draw, kind: str) -> np.ndarray:
    if kind == "bass":
        curve = 50 + 110 * np.exp(-times(0.3) / 0.02)
        return sine(curve, 0.3) * np.exp(-times(0.3) / 0.1) * 1.2
    if kind == "snare":
        return 0.4 * burst(d, 0.2, 0.05) + 0.5 * partials(0.2, [190, 330], [0.05, 0.04], [1, 0.6])
    return 0.25 * band(burst(d, 0.08, 0.02), 6000, 14_000)


def drum_beat(d: Draw) -> np.ndarray:
    step, events = d.between(0.11, 0.22), []
    for k in range(8 * d.count(2, 3)):
        if k % 8 in (0, 3 + d.count(0, 2)):
            events.append((k * step, drum(d, "bass")))
        if k % 8 == 4:
            events.append((k * step, drum(d, "snare")))
        events.append((k * step, drum(d, "hat")))
    return lay(events[-1][0] + 0.3, events)


def drum_roll(d: Draw) -> np.ndarray:
    seconds, rate = d.between(1.5, 5), d.between(17, 30)
    swell = d.chance(0.5)
    events = [
        (at, drum(d, "snare") * d.near(1, 0.15) * (0.3 + 0.7 * at / seconds if swell else 1))
        for at in rhythm(d, seconds, rate, 0.06)
    ]
    return lay(seconds + 0.2, events)


def clap(d: Draw, pitch: float) -> np.ndarray:
    return band(burst(d, 0.06, d.near(0.009, 0.2)), pitch / 1.6, pitch * 1.6, 1)


def applause(d: Draw) -> np.ndarray:
    seconds, rate = d.between(2.5, 7), d.between(60, 180)
    pool = [clap(d, d.near(1400, 0.35)) for _ in range(40)]
    events = [(at, pool[d.count(0, 39)] * d.near(1, 0.5)) for at in scatter(d, seconds, rate)]
    return fade(lay(seconds, events), 0.3, 0.5)


def clapping(d: Draw) -> np.ndarray:
    """One pair of hands, evenly."""
    seconds, pitch = d.between(1.5, 5), d.between(900, 2000)
    return lay(seconds, [(at, clap(d, d.near(pitch)) * d.near(1, 0.2)) for at in rhythm(d, seconds, d.between(2.2, 5))])


def footsteps(d: Draw) -> np.ndarray:
    seconds, hard, events = d.between(2.5, 7), d.between(300, 1500), []
    for at in rhythm(d, seconds, d.between(1.4, 2.6), 0.06):
        heel = partials(0.15, [d.near(90, 0.1), d.near(160, 0.1)], [0.03, 0.02], [1, 0.5])
        sole = band(burst(d, 0.12, 0.02), hard / 2, hard * 2, 1)
        events += [(at, heel + 0), (at + d.near(0.07, 0.1), 0.4 * sole), (at, 0.4 * sole[: len(sole) // 3])]
    return lay(seconds, events)


def knocking(d: Draw) -> np.ndarray:
    pitch, rate, decay = d.between(140, 380), d.between(3.5, 7), d.between(0.02, 0.05)
    events, at = [], 0.05
    for _ in range(d.count(1, 2)):
        for _ in range(d.count(3, 5)):
            modes = [pitch, pitch * 1.7, pitch * 2.9, pitch * 4.3]
            knock = partials(0.2, modes, [decay, decay * 0.8, decay / 2, decay / 3], [1, 0.8, 0.6, 0.3])
            events += [(at, knock * d.near(1, 0.1)), (at, 0.3 * burst(d, 0.02, 0.003))]
            at += d.near(1 / rate, 0.05)
        at += d.near(0.6)
    return lay(at, events)


def clock(d: Draw) -> np.ndarray:
    seconds, rate, pitch = d.between(3, 8), d.between(1, 3), d.between(1800, 4200)
    events = []
    for k, at in enumerate(rhythm(d, seconds, 2 * rate, 0.003)):
        tick = partials(0.06, [pitch * (1 if k % 2 else 0.8), pitch * 1.9], [0.006, 0.003], [1, 0.6])
        events.append((at, tick + 0 if k % 2 else 0.8 * tick))
    return lay(seconds, events)


def typing(d: Draw) -> np.ndarray:
    seconds, rate, pitch = d.between(2.5, 7), d.between(5, 11), d.between(1500, 3500)
    events, at = [], 0.05
    while at < seconds:
        key = band(burst(d, 0.03, 0.004), d.near(pitch, 0.2) / 2, 9000, 1)
        events += [(at, key * d.near(1, 0.3)), (at, 0.15 * partials(0.04, [d.near(350, 0.2)], [0.01], [1]))]
        events.append((at + d.near(0.06, 0.3), 0.35 * key * d.near(1, 0.3)))
        at += d.near(0.5, 0.3) if d.chance(0.08) else d.near(1 / rate, 0.35)
    return lay(seconds, events)


def birdsong(d: Draw) -> np.ndarray:
    seconds, pitch, events, at = d.between(2, 6), d.between(2500, 5000), [], 0.05
    while at < seconds:
        lasts, direction = d.near(d.rng.choice([0.05, 0.1, 0.16]), 0.1), d.rng.choice([0.7, 1.4, 1.2])
        base = d.near(pitch, 0.12)
        for _ in range(d.count(2, 6)):
            curve = base * direction ** np.linspace(0, 1, length(lasts))
            curve = curve * (1 + 0.04 * np.sin(2 * np.pi * 60 * times(lasts)))
            events.append((at, fade(sine(curve, lasts), lasts / 4, lasts / 3)))
            at += lasts * 1.4
        at += d.near(0.3, 0.5)
    return lay(seconds, events)


def cricket(d: Draw) -> np.ndarray:
    seconds, pitch, rate, pulse = d.between(2.5, 7), d.between(3600, 6000), d.between(1.5, 4), d.between(25, 45)
    events = []
    for at in rhythm(d, seconds, rate, 0.03):
        for k in range(d.count(3, 5)):
            events.append((at + k / pulse, fade(sine(pitch, 0.6 / pulse), 0.004, 0.006)))
    return lay(seconds, events)


def voiced(d: Draw, pitch: np.ndarray, seconds: float, peaks: tuple[tuple[float, float], ...]) -> np.ndarray:
    """A throat: harmonics of a pitch through resonances, each (Hz, strength)."""
    wave = rich(pitch, seconds, 1 / np.arange(1, 40) ** 0.5) + 0.1 * d.noise(seconds)
    return even(sum(strength * even(band(wave, peak / 1.15, peak * 1.15)) for peak, strength in peaks))


def frog(d: Draw) -> np.ndarray:
    seconds, rate, pitch, pulse = d.between(2, 6), d.between(1.2, 3), d.between(450, 1100), d.between(35, 80)
    events = []
    for at in rhythm(d, seconds, rate, 0.1):
        lasts = d.near(0.22, 0.1)
        beat = np.exp(4 * (np.sin(2 * np.pi * pulse * times(lasts)) - 1))
        events.append((at, fade(beat * rich(pitch, lasts, [1, 0.6, 0.2]), 0.02, 0.04)))
    return lay(seconds, events)


def owl(d: Draw) -> np.ndarray:
    pitch, parts = d.between(300, 480), [silence(0.05)]
    for lasts in (0.18, 0.15, 0.55) if d.chance(0.6) else (0.5, 0.5):
        lasts = d.near(lasts, 0.1)
        curve = pitch * (1 + 0.08 * np.sin(np.pi * times(lasts) / lasts))
        parts += [fade(rich(curve, lasts, [1, 0.12, 0.05]), 0.05, 0.1), silence(d.near(0.15, 0.2))]
    return in_turn(parts * d.count(1, 2))


def cuckoo(d: Draw) -> np.ndarray:
    pitch, each, gap = d.between(520, 780), d.between(0.14, 0.26), d.between(0.5, 1.1)
    high, low = (fade(rich(p, each * k, [1, 0.15, 0.05]), 0.03, 0.06) for p, k in ((pitch * 1.25, 1), (pitch, 1.4)))
    return in_turn([high, silence(each / 2), low, silence(gap)] * d.count(2, 4))


def dog(d: Draw) -> np.ndarray:
    pitch, rate, events, at = d.between(220, 550), d.between(1.8, 4), [], 0.05
    for _ in range(d.count(2, 5)):
        lasts = d.near(0.16, 0.1)
        curve = d.near(pitch) * (0.75 + 0.5 * np.sin(np.pi * np.sqrt(times(lasts) / lasts)))
        breath = even(band(d.noise(lasts), 500, 4000))
        bark = voiced(d, curve, lasts, ((700, 1), (1300, 0.8), (2600, 0.3))) + 0.3 * breath
        events.append((at, fade(np.tanh(bark), 0.012, 0.07)))
        at += d.near(1 / rate, 0.15)
    return lay(at + 0.2, events)


def cat(d: Draw) -> np.ndarray:
    pitch, parts = d.between(420, 800), []
    for _ in range(d.count(1, 3)):
        lasts = d.between(0.5, 1.1)
        share = times(lasts) / lasts
        curve = pitch * (0.8 + 0.5 * np.sin(np.pi * share**0.7))
        closed, opened = (voiced(d, curve, lasts, ((p, 1), (3 * p, 0.4))) for p in (750, 1500))
        parts += [fade(closed * (1 - np.sin(np.pi * share)) + opened * np.sin(np.pi * share), 0.08, 0.15)]
        parts.append(silence(d.near(0.4, 0.3)))
    return in_turn(parts)


def cow(d: Draw) -> np.ndarray:
    seconds, pitch = d.between(1, 2.4), d.between(85, 170)
    share = times(seconds) / seconds
    curve = pitch * (0.85 + 0.3 * np.sin(np.pi * share))
    moo = voiced(d, curve, seconds, ((320, 1), (700, 0.6), (1900, 0.15)))
    return in_turn([fade(moo, 0.15, 0.3), silence(d.near(0.4, 0.3))] * d.count(1, 2))


def bee(d: Draw) -> np.ndarray:
    seconds, pitch = d.between(2, 6), d.between(170, 320)
    curve = pitch * (0.92 + 0.16 * d.wander(seconds, 3))
    return fade(rich(curve, seconds, 1 / np.arange(1, 25) ** 0.8) * (0.2 + 0.8 * d.wander(seconds, 1.5)), 0.1, 0.1)


def explosion(d: Draw) -> np.ndarray:
    seconds = d.between(1.5, 3.5)
    boom = even(band(burst(d, seconds, d.between(0.25, 0.7)), 25, d.between(300, 900), 1))
    crack = burst(d, seconds, 0.03)
    return fade(np.tanh(boom * 2 + crack), 0.002, 0.3)


def breaking_glass(d: Draw) -> np.ndarray:
    seconds, low = d.between(0.8, 2), d.between(1800, 3200)
    events = [(0.02, 0.7 * band(burst(d, 0.3, 0.04), 2000, 14_000, 1))]
    for at in 0.02 + d.rng.exponential(seconds / 6, d.count(20, 45)):
        pitch = low * 4 ** d.rng.random()
        shard = partials(0.3, [pitch, pitch * 1.6], [d.near(0.05, 0.4), 0.02], [1, 0.5])
        events.append((at, shard * d.near(0.35, 0.5)))
    return lay(seconds, events)


def sawing(d: Draw) -> np.ndarray:
    seconds, rate, teeth, parts = d.between(2.5, 6), d.between(1.8, 3.5), d.between(50, 110), []
    while sum(map(len, parts)) < seconds * RATE:
        lasts, forth = d.near(0.5 / rate, 0.05), len(parts) % 2 == 0
        speed = np.sin(np.pi * times(lasts) / lasts)
        bite = 0.5 + 0.5 * np.sin(2 * np.pi * np.cumsum(teeth * (0.4 + speed)) / RATE)
        noise = even(band(d.noise(lasts), 900 if forth else 600, 5000 if forth else 3000, 1))
        parts.append((noise * bite * speed * (1 if forth else 0.6)).astype(np.float32))
    return in_turn(parts)


def hammering(d: Draw) -> np.ndarray:
    seconds, pitch, events = d.between(2, 5), d.between(1100, 2600), []
    for at in rhythm(d, seconds, d.between(1.3, 3.2), 0.06):
        ring = partials(0.35, [pitch, pitch * 1.47, pitch * 2.3], [0.06, 0.04, 0.02], [0.8, 0.6, 0.5])
        events += [(at, ring * d.near(1, 0.1)), (at, 0.7 * burst(d, 0.05, 0.006))]
        events.append((at, partials(0.15, [180], [0.03], [0.8])))
    return lay(seconds, events)


def heartbeat(d: Draw) -> np.ndarray:
    seconds, pitch, events = d.between(3, 8), d.between(45, 85), []
    for at in rhythm(d, seconds, d.between(0.9, 2), 0.02):
        first, second = (partials(0.25, [pitch * k, pitch * 1.6 * k], [0.05, 0.03], [1, 0.4]) for k in (1, 1.2))
        events += [(at, first), (at + 0.28, 0.7 * second)]
    return lay(seconds, events)


def boing(d: Draw) -> np.ndarray:
    """A spring that bounces."""
    seconds, pitch, rate = d.between(0.7, 1.6), d.between(110, 260), d.between(7, 14)
    swing = np.sin(2 * np.pi * rate * times(seconds)) * np.exp(-times(seconds) / (seconds / 3))
    wave = rich(pitch * (1 + 0.5 * swing) * np.geomspace(1, 1.6, length(seconds)), seconds, 1 / np.arange(1, 14) ** 0.7)
    return in_turn([fade(wave * np.exp(-times(seconds) / (seconds / 2)), 0.003, 0.1), silence(0.2)] * d.count(1, 2))


SOUNDS = (
    *(hiss, rumble, wind, rain, thunder, waves, stream, dripping, fire, engine, accelerating, helicopter),
    *(vacuum_cleaner, drum_beat, drum_roll, applause, clapping, footsteps, knocking, clock, typing, birdsong),
    *(cricket, frog, owl, cuckoo, dog, cat, cow, bee, explosion, breaking_glass, sawing, hammering, heartbeat, boing),
)
