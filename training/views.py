"""Training pictures: every artwork of every concept in memory, and a fresh random view of each for each step.

A batch shares one patch grid, so that no picture needs padding; the grid changes from batch to batch, which
teaches the NaFlex position table all aspect ratios.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from artwork import TRAINING_ARTWORK, IconSet, noto_picture
from concepts import Concept
from PIL import Image

PATCH = 16
POOL_SIZE = 96
NOTO_SHARE = 0.35  # Noto is what the package ships and shows; the rest is shared evenly by the other designs

# Few patches cost a fraction of 36 and teach most of what there is to see; so the grids grow with progress.
GRIDS = {
    0.00: ((3, 3), ((3, 4), (4, 3), (2, 4), (4, 2))),
    0.35: ((4, 4), ((3, 5), (5, 3), (4, 5), (5, 4))),
    0.70: ((6, 6), ((5, 7), (7, 5), (4, 9), (9, 4), (4, 8), (8, 4), (5, 6), (6, 5), (3, 10), (10, 3), (5, 5))),
}


class PicturePool:
    """Premultiplied RGBA pictures as one uint8 tensor, with the concept and sampling weight of each."""

    def __init__(self, concepts: list[Concept], artwork_folder: Path):
        sets = {name: IconSet(artwork_folder / name) for name in TRAINING_ARTWORK}
        pixels, labels, weights = [], [], []
        for label, concept in enumerate(concepts):
            noto = [noto_picture(emoji, POOL_SIZE) for emoji in concept.pictures]
            others = [
                icons.picture(emoji, concept.english if emoji == concept.pictures[-1] else "", POOL_SIZE)
                for icons in sets.values()
                for emoji in concept.pictures
            ]
            others = [picture for picture in others if picture is not None]
            for picture, weight in [(p, NOTO_SHARE / len(noto)) for p in noto] + [
                (p, (1 - NOTO_SHARE) / len(others)) for p in others
            ]:
                pixels.append(premultiplied(picture))
                labels.append(label)
                weights.append(weight)
        self.pixels = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.tensor(labels)
        weights = torch.tensor(weights)
        # One distribution per concept: a batch first chooses concepts, then a picture of each.
        self.members = torch.zeros(len(concepts), len(labels))
        self.members[self.labels, torch.arange(len(labels))] = weights

    def choose(self, concepts: torch.Tensor) -> torch.Tensor:
        """One picture number for each concept number."""
        return torch.multinomial(self.members[concepts], 1)[:, 0]


def premultiplied(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture, np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return pixels.round().astype(np.uint8)


def choose_grid(generator: np.random.Generator, progress: float) -> tuple[int, int]:
    """Rows and columns for a batch: square more often than not."""
    square, others = GRIDS[max(start for start in GRIDS if start <= progress)]
    return square if generator.random() < 0.6 else others[generator.integers(len(others))]


def random_views(pictures: torch.Tensor, grid: tuple[int, int], strength: float) -> torch.Tensor:
    """uint8 premultiplied RGBA (B, 4, S, S) -> normalised RGB (B, 3, rows·16, cols·16).

    `strength` in 0…1 widens every range, so training can start mild.
    """
    count, (height, width) = len(pictures), (grid[0] * PATCH, grid[1] * PATCH)

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape)

    # Where on the picture (in -1…1) does each canvas pixel lie? First pixels, then turn, shear, and scale.
    shorter = min(height, width)
    scale = between(0.95 - 0.4 * strength, 1.04)
    angle = between(-1, 1) * 0.4 * strength
    stretch = torch.exp(between(-1, 1) * 0.15 * strength)
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    x_unit, y_unit = width / shorter / scale, height / shorter / scale
    free_x = (width / shorter - scale).clamp(min=0.05) / (width / shorter)
    free_y = (height / shorter - scale).clamp(min=0.05) / (height / shorter)
    centre_x, centre_y = between(-1, 1) * free_x, between(-1, 1) * free_y
    centred = torch.rand(count) < 0.4  # people centre what they photograph
    centre_x, centre_y = torch.where(centred, 0, centre_x), torch.where(centred, 0, centre_y)
    row_x = torch.stack([cos * x_unit * flip * stretch, sin * y_unit * flip * stretch], 1)
    row_y = torch.stack([-sin * x_unit / stretch, cos * y_unit / stretch], 1)
    linear = torch.stack([row_x, row_y], 1)
    shift = -linear @ torch.stack([centre_x, centre_y], 1)[..., None]
    grid_points = F.affine_grid(torch.cat([linear, shift], 2), [count, 4, height, width], align_corners=False)
    views = F.grid_sample(pictures.float().div_(255), grid_points, align_corners=False)

    # Contrast, brightness and tint are linear, so they go into the small factors instead of the large array.
    contrast = between(1 - 0.3 * strength, 1 + 0.2 * strength, 1, 1, 1)
    tint = between(1 - 0.15 * strength, 1 + 0.15 * strength, 3, 1, 1) * contrast
    offset = (1 - contrast) * 0.5 + between(-0.12, 0.12, 1, 1, 1) * strength
    behind = backgrounds(count, height, width, strength) * contrast
    views = torch.addcmul(behind, views[:, 3:], behind, value=-1).addcmul_(views[:, :3], tint).add_(offset)
    return views.clamp_(0, 1).mul_(2).sub_(1)


def backgrounds(count: int, height: int, width: int, strength: float) -> torch.Tensor:
    """White, a colour, or a gradient between two colours along one side: (B, 3, H, W)."""
    first, second = torch.rand(2, count, 3, 1, 1)
    kind = torch.rand(count, 1, 1, 1)
    first = torch.where(kind > 0.05 + 0.55 * strength, 1.0, first)
    second = torch.where(kind < 0.2 * strength, second, first)
    ramps = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    ramp = ramps[torch.randint(2, ()).item()]
    return (first + (second - first) * ramp).expand(count, 3, height, width)


def to_patches(views: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, 3, H, W) -> (B, rows·cols, 16·16·3): row-major patches, inside each (y, x, channel)."""
    rows, cols = grid
    blocks = views.reshape(len(views), 3, rows, PATCH, cols, PATCH)
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(len(views), rows * cols, PATCH * PATCH * 3)
