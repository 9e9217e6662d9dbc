"""Small pictures of one to five emoji on a plain or shaded background, and where in them each emoji is."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from artwork import TRAINING_ARTWORK, IconSet, noto_picture
from concepts import Concept
from glm_concepts import count_left_out, sides_left_out
from PIL import Image

CELL = 28  # pixels of a picture token's side: 2 x 2 patches of 14
SPRITE = 96
NOTO_SHARE = 0.4
SQUARE = (112, 112)
SHAPES = ((84, 140), (140, 84), (84, 112), (112, 84), (84, 84))  # height and width of every third batch
BASE_COLOURS = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "red": (225, 45, 45),
    "green": (50, 170, 70),
    "blue": (45, 95, 225),
    "yellow": (250, 220, 60),
}
SIZES = {1: (0.45, 1.0), 2: (0.36, 0.52), 3: (0.3, 0.44), 4: (0.28, 0.38), 5: (0.27, 0.34)}  # parts of the shorter side
CHANGES = {"background": 0.26, "became": 0.3, "appeared": 0.13, "vanished": 0.13, "same": 0.18}  # how often each


@dataclass(frozen=True)
class Thing:
    """One emoji: which concept, which of its pictures, centre in 0..1, size in pixels, turn, and mirrored or not."""

    concept: int
    picture: int
    x: float
    y: float
    size: float
    angle: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True)
class Scene:
    """shape: height and width. background: two colours, from one side to the other. colour: its name, if it has one."""

    shape: tuple[int, int]
    things: tuple[Thing, ...]
    background: tuple[tuple[int, int, int], tuple[int, int, int]]
    colour: str = ""


class Sprites:
    """Every training picture of every concept; other artwork can be given to measure with."""

    def __init__(self, concepts: list[Concept], artwork: Path, designs: tuple[str, ...] = ("noto", *TRAINING_ARTWORK)):
        sets = {name: IconSet(artwork / name) for name in designs if name != "noto"}
        self.concepts = concepts
        self.pictures: list[list[Image.Image]] = []
        self.weights: list[np.ndarray] = []
        for concept in concepts:
            noto = [noto_picture(emoji, SPRITE) for emoji in concept.pictures] if "noto" in designs else []
            others = [
                icons.picture(emoji, concept.english if emoji == concept.pictures[-1] else "", SPRITE)
                for icons in sets.values()
                for emoji in concept.pictures
            ]
            noto = [picture for picture in noto if picture is not None]
            others = [picture for picture in others if picture is not None]
            share = NOTO_SHARE if others and noto else float(not others)
            weights = [share / max(1, len(noto))] * len(noto) + [(1 - share) / max(1, len(others))] * len(others)
            self.pictures.append(noto + others)
            self.weights.append(np.array(weights) / max(1e-9, sum(weights)))

    def choose(self, rng: np.random.Generator, concept: int) -> int:
        return int(rng.choice(len(self.weights[concept]), p=self.weights[concept]))


def render(scene: Scene, sprites: Sprites, noise: float = 0.0, rng: np.random.Generator | None = None):
    """(uint8 (H, W, 3), boxes float (things, 4) as x1, y1, x2, y2 in 0..1 of what is drawn)."""
    height, width = scene.shape
    first, second = np.array(scene.background, np.float32)
    ramp = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    canvas = np.broadcast_to(first + (second - first) * ramp, (height, width, 3))
    picture = Image.fromarray(canvas.astype(np.uint8))
    boxes = np.zeros((len(scene.things), 4), np.float32)
    for number, thing in enumerate(scene.things):
        sprite = sprites.pictures[thing.concept][thing.picture]
        if thing.mirrored:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        side = max(8, round(thing.size))
        sprite = sprite.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
        if thing.angle:
            sprite = sprite.rotate(thing.angle, Image.Resampling.BILINEAR)
        left, top = round(thing.x * width - side / 2), round(thing.y * height - side / 2)
        picture.paste(sprite, (left, top), sprite)
        x1, y1, x2, y2 = sprite.getbbox() or (0, 0, side, side)
        box = np.array([left + x1, top + y1, left + x2, top + y2], np.float32)
        boxes[number] = np.clip(box / (width, height, width, height), 0, 1)
    pixels = np.asarray(picture)
    if rng is not None and noise:
        gain, offset = 1 + noise * rng.uniform(-0.2, 0.15, 3), noise * rng.uniform(-25, 25)
        table = np.clip((np.arange(256)[:, None] - 128) * gain + 128 + offset, 0, 255).astype(np.uint8)
        pixels = np.take_along_axis(table, pixels.reshape(-1, 3), 0).reshape(pixels.shape)
    return pixels, boxes


def random_background(rng: np.random.Generator, named: float = 0.35):
    """((first colour, second colour), name): white, a named colour, any colour, or shaded from one to another."""
    kind = rng.random()
    if kind < 0.35:
        return ((255, 255, 255), (255, 255, 255)), "white"
    if kind < 0.35 + named:
        name = list(BASE_COLOURS)[rng.integers(len(BASE_COLOURS))]
        return named_background(rng, name), name
    first = tuple(int(value) for value in rng.integers(0, 256, 3))
    second = tuple(int(value) for value in rng.integers(0, 256, 3)) if rng.random() < 0.4 else first
    return (first, second), ""


def named_background(rng: np.random.Generator, name: str):
    spread = 0 if name == "white" else 20
    colour = tuple(int(v) for v in np.clip(np.array(BASE_COLOURS[name]) + rng.integers(-spread, spread + 1, 3), 0, 255))
    return colour, colour


def random_things(rng, sprites: Sprites, concepts: list[int], shape, *, in_a_row: bool = False) -> tuple[Thing, ...]:
    """Emoji that do not touch each other. in_a_row: each clearly to the right of the one before."""
    height, width = shape
    low, high = SIZES[len(concepts)]
    shorter = min(shape)
    alike = rng.random() < 0.8  # several of one concept mostly have one design
    chosen: dict[int, int] = {}
    for _ in range(200):
        scale = rng.uniform(low, high) * shorter
        placed: list[Thing] = []
        for concept in concepts:
            picture = sprites.choose(rng, concept)
            if alike:
                picture = chosen.setdefault(concept, picture)
            size = float(np.clip(scale * rng.uniform(0.85, 1.15), 26, shorter))
            angle = float(rng.uniform(-18, 18)) if rng.random() < 0.5 else 0.0
            mirrored = bool(rng.random() < 0.25)
            for _ in range(20):
                x, y = (rng.uniform(size / 2, side - size / 2 + 1e-6) / side for side in (width, height))
                if len(concepts) == 1 and rng.random() < 0.6:
                    x, y = 0.5, 0.5
                clear = all(
                    max(abs(x - o.x) * width, abs(y - o.y) * height) > 0.5 * (size + o.size) * 0.96 for o in placed
                )
                if in_a_row and placed:
                    clear = clear and (x - placed[-1].x) * width > 0.5 * (size + placed[-1].size) * 0.9
                if clear:
                    placed.append(Thing(concept, picture, float(x), float(y), size, angle, mirrored))
                    break
            else:
                break
        if len(placed) == len(concepts):
            return tuple(placed)
        low = 0.98 * low
        high = max(low, 0.98 * high)
    raise RuntimeError("the emoji found no place")


def one(rng, sprites: Sprites, shape=SQUARE, concept: int | None = None) -> Scene:
    concept = int(rng.integers(len(sprites.concepts))) if concept is None else concept
    background, colour = random_background(rng)
    return Scene(shape, random_things(rng, sprites, [concept], shape), background, colour)


def several_alike(rng, sprites: Sprites, shape=SQUARE, *, left_out: bool = False) -> Scene:
    """Two to five of one concept; left_out: only such as training leaves out."""
    while True:
        concept, count = int(rng.integers(len(sprites.concepts))), int(rng.integers(2, 6))
        if count_left_out(sprites.concepts[concept], count) == left_out:
            background, colour = random_background(rng)
            return Scene(shape, random_things(rng, sprites, [concept] * count, shape), background, colour)


def several(rng, sprites: Sprites, count: int, shape=SQUARE, *, left_out: bool = False, row: bool = False) -> Scene:
    """Different concepts, from left to right; left_out: only such pairs as training leaves out."""
    while True:
        concepts = [int(c) for c in rng.choice(len(sprites.concepts), count, replace=False)]
        known = [sprites.concepts[c] for c in concepts]
        if any(sides_left_out(a, b) for i, a in enumerate(known) for b in known[:i]) == left_out:
            things = random_things(rng, sprites, concepts, shape, in_a_row=row)
            background, colour = random_background(rng)
            return Scene(shape, tuple(sorted(things, key=lambda thing: thing.x)), background, colour)


def changed(rng, sprites: Sprites, scene: Scene) -> tuple[Scene, str, dict[str, str]]:
    """What a scene of one emoji becomes, which phrase tells that, and the values of the phrase that are no names."""
    thing = scene.things[0]
    kind = str(rng.choice(list(CHANGES), p=list(CHANGES.values())))
    if kind == "background":
        colour = str(rng.choice([name for name in BASE_COLOURS if name != scene.colour]))
        return replace(scene, background=named_background(rng, colour), colour=colour), kind, {"colour": colour}
    if kind == "became":
        other = int(rng.choice([c for c in range(len(sprites.concepts)) if c != thing.concept]))
        return replace(scene, things=(replace(thing, concept=other, picture=sprites.choose(rng, other)),)), kind, {}
    if kind == "vanished":
        return replace(scene, things=()), kind, {}
    return scene, kind, {}


def cell_targets(scene: Scene, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each picture token, row by row: concept or -1, box of its emoji, and whether it holds that emoji's centre."""
    rows, cols = scene.shape[0] // CELL, scene.shape[1] // CELL
    concept = np.full((rows, cols), -1)
    box = np.zeros((rows, cols, 4), np.float32)
    centre = np.zeros((rows, cols), np.float32)
    best = np.full((rows, cols), 0.3, np.float32)  # of a cell's area, from where on it counts as the emoji's
    for thing, (x1, y1, x2, y2) in zip(scene.things, boxes, strict=True):
        across = np.clip(np.minimum(x2 * cols, np.arange(cols) + 1) - np.maximum(x1 * cols, np.arange(cols)), 0, 1)
        down = np.clip(np.minimum(y2 * rows, np.arange(rows) + 1) - np.maximum(y1 * rows, np.arange(rows)), 0, 1)
        area = down[:, None] * across[None]
        row, col = min(rows - 1, int((y1 + y2) / 2 * rows)), min(cols - 1, int((x1 + x2) / 2 * cols))
        area[row, col] = 2.0
        hit = area > best
        best[hit], concept[hit] = area[hit], thing.concept
        box[hit] = x1, y1, x2, y2
        centre[row, col] = 1.0
    return concept.reshape(-1), box.reshape(-1, 4), centre.reshape(-1)
