"""First stage: the vision tower alone learns to put into each picture token what it shows.

The targets of the concepts are fixed and at right angles to each other. Beside them each token tells where its emoji
lies, whether it holds the middle of one (their number is the count), and the colour behind; that is read by a linear
head that is thrown away.
"""

import numpy as np
import torch
import torch.nn.functional as F
from glm_model import VISION_WIDTH, WIDTH, Vision, to_patches
from glm_scenes import SHAPES, SQUARE, Scene, Sprites, cell_targets, one, render, several, several_alike
from stage import Stage

BATCH = 48
TINY = (56, 56)  # for the first part of the time: a quarter of the patches
TEMPERATURE = 8.0, 20.0
RATE = 1.5e-3


def anchors_of(count: int) -> torch.Tensor:
    """(count + 1, WIDTH) at right angles, for each concept and for nothing; the same in every run."""
    generator = torch.Generator().manual_seed(7)
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0][: count + 1]


def scenes(rng: np.random.Generator, sprites: Sprites, shape: tuple[int, int], count: int) -> list[Scene]:
    found = []
    for _ in range(count):
        kind = rng.random()
        if shape == TINY or kind < 0.45:
            found.append(one(rng, sprites, shape))
        elif kind < 0.7:
            found.append(several_alike(rng, sprites, shape))
        else:
            found.append(several(rng, sprites, int(rng.integers(2, 5)), shape))
    return found


def random_shape(rng: np.random.Generator) -> tuple[int, int]:
    return SHAPES[rng.integers(len(SHAPES))] if rng.random() < 0.3 else SQUARE


def batch_of(chosen: list[Scene], sprites: Sprites, rng: np.random.Generator, noise: float):
    pictures, concepts, boxes, centres, behind = [], [], [], [], []
    for scene in chosen:
        pixels, found = render(scene, sprites, noise, rng)
        concept, box, centre = cell_targets(scene, found)
        pictures.append(pixels)
        concepts.append(concept)
        boxes.append(box)
        centres.append(centre)
        behind.append(np.mean(np.array(scene.background, np.float32), 0) / 255)
    arrays = (np.stack(items) for items in (pictures, concepts, boxes, centres, behind))
    return tuple(torch.from_numpy(array) for array in arrays)


def start_from_patches(vision: Vision, sprites: Sprites, rng: np.random.Generator) -> None:
    """Patch embedding: principal components of patches, equally strong; positions: waves of rows and columns."""
    pictures = batch_of(scenes(rng, sprites, SQUARE, 400), sprites, rng, 0.5)[0]
    patches = to_patches(pictures)[0].flatten(0, 1)
    mean = patches.mean(0)
    variance, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    directions, variance = directions[:, -VISION_WIDTH:], variance[-VISION_WIDTH:]
    mixing = torch.linalg.qr(torch.randn(VISION_WIDTH, VISION_WIDTH))[0]
    projection = mixing @ (directions / (variance + 0.1).sqrt()).T
    waves = torch.arange(8.0)[:, None] * torch.linspace(0.05, 1.5, VISION_WIDTH // 4)
    waves = torch.cat([waves.sin(), waves.cos()], 1)
    table = torch.cat([waves[:, None].expand(8, 8, -1), waves[None].expand(8, 8, -1)], 2).reshape(64, -1)
    with torch.no_grad():
        vision.patch_embed["proj"].weight.copy_(projection)
        vision.patch_embed["proj"].bias.copy_(-projection @ mean)
        vision.embeddings["position_embedding"].weight.copy_(0.5 * table)


def train_vision(vision: Vision, sprites: Sprites, minutes: float, rng: np.random.Generator, save, begin: float = 0.0):
    """begin: how much of what grows with time has been gone through before."""
    anchors = anchors_of(len(sprites.concepts))
    extra = torch.nn.Linear(WIDTH, 8)
    stage = Stage("vision", minutes, [vision, extra], RATE, save)
    right = seen = 0.0
    for part in stage:
        progress = begin + (1 - begin) * part
        shape = TINY if progress < 0.15 else random_shape(rng)
        chosen = scenes(rng, sprites, shape, 2 * BATCH if shape == TINY else BATCH)
        pictures, concepts, boxes, centres, behind = batch_of(chosen, sprites, rng, min(1.0, 0.3 + progress))
        out = vision(pictures)
        warmth = TEMPERATURE[0] + (TEMPERATURE[1] - TEMPERATURE[0]) * min(1.0, 2 * progress)
        logits = warmth * F.normalize(out, dim=-1) @ anchors.T
        nothing = len(sprites.concepts)
        target = torch.where(concepts < 0, nothing, concepts)
        losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        weight = torch.where(target.flatten() == nothing, 0.15, 0.5 + centres.flatten())
        told, thing = extra(out), concepts >= 0
        loss = (losses * weight).sum() / weight.sum()
        loss = loss + F.binary_cross_entropy_with_logits(told[..., 4], centres)
        loss = loss + 3 * (told[..., :4] - boxes)[thing].abs().mean()
        loss = loss + 0.5 * (told[..., 5:] - behind[:, None]).square().mean()
        stage.descend(loss)
        hit = (logits.detach()[..., :nothing].argmax(-1) == concepts)[centres > 0].float()
        right, seen = 0.98 * right + hit.mean().item(), 0.98 * seen + 1
        if stage.step_count % 100 == 0:
            print(f"  concepts right at the centres {right / seen:.1%}", flush=True)


def measure_vision(vision: Vision, sprites: Sprites, seed: int = 1) -> str:
    """Accuracy on fresh scenes: concept at the centre, and how many centres."""
    rng, anchors = np.random.default_rng(seed), anchors_of(len(sprites.concepts))
    with torch.no_grad():
        hits = []
        for make in (one, several_alike):
            for _ in range(6):
                pictures, concepts, _, centres, _ = batch_of([make(rng, sprites) for _ in range(64)], sprites, rng, 0.5)
                logits = F.normalize(vision(pictures), dim=-1) @ anchors[:-1].T
                hits.append((logits.argmax(-1) == concepts)[centres > 0].float().mean().item())
    return f"held-out views: one emoji {np.mean(hits[:6]):.1%}, several {np.mean(hits[6:]):.1%}"
