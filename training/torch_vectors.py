"""The figures of evaluate.py by torch, in float and with simulated 8- and 4-bit weights.

It reads the written folder back, so float16 rounding, names and configs are part of what is measured.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from concepts import FAMILY_TEMPLATE
from evaluate import ANSWERS, measure, print_table, zero_shot
from evaluation_set import read_set
from PIL import Image
from quantised import is_quantised, rounded_to_bits
from tokenizer import encode
from tokenizers import Tokenizer
from transformers import Siglip2Model

PATCH = 16


class TorchVectors:
    """The two functions that `measure` wants, for a Hugging Face folder."""

    def __init__(self, folder: Path, bits: int | None = None):
        self.model = Siglip2Model.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.length = self.model.config.text_config.max_position_embeddings
        if bits is not None:
            round_weights(self.model, bits)

    @torch.no_grad()
    def text_vectors(self, texts: list[str]) -> np.ndarray:
        ids = torch.tensor(encode(self.tokenizer, texts, self.length))
        return normalised([self.model.get_text_features(input_ids=part).pooler_output for part in ids.split(512)])

    @torch.no_grad()
    def image_vectors(self, pictures: list[Image.Image]) -> np.ndarray:
        budget = self.model.config.vision_config.num_patches
        parts = []
        for start in range(0, len(pictures), 64):
            batch = naflex_batch(pictures[start : start + 64], budget)
            parts.append(self.model.get_image_features(**batch).pooler_output)
        return normalised(parts)

    def score(self, cosine: np.ndarray) -> np.ndarray:
        logits = cosine * self.model.logit_scale.exp().item() + self.model.logit_bias.item()
        return 1 / (1 + np.exp(-logits))


def round_weights(model: Siglip2Model, bits: int) -> None:
    with torch.no_grad():
        for module in model.modules():
            for name in ("weight", "in_proj_weight"):
                weight = getattr(module, name, None)
                if isinstance(weight, torch.nn.Parameter) and is_quantised(module, name):
                    weight.copy_(rounded_to_bits(weight, bits))


def normalised(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1).numpy()


def naflex_size(height: int, width: int, budget: int) -> tuple[int, int]:
    """(rows, cols) in patches: the largest scale, found by bisection, whose patches fit the budget."""

    def tiles(scale: float) -> tuple[int, int]:
        return max(1, math.ceil(height * scale / PATCH)), max(1, math.ceil(width * scale / PATCH))

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        rows, cols = tiles(middle)
        low, high = (middle, high) if rows * cols <= budget else (low, middle)
    return tiles(low)


def naflex_batch(pictures: list[Image.Image], budget: int) -> dict[str, torch.Tensor]:
    values = torch.zeros(len(pictures), budget, PATCH * PATCH * 3)
    mask = torch.zeros(len(pictures), budget, dtype=torch.int32)
    shapes = torch.zeros(len(pictures), 2, dtype=torch.int64)
    for number, picture in enumerate(pictures):
        rows, cols = naflex_size(picture.height, picture.width, budget)
        resized = picture.resize((cols * PATCH, rows * PATCH), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(resized, np.float32) / 127.5 - 1)
        blocks = pixels.reshape(rows, PATCH, cols, PATCH, 3).permute(0, 2, 1, 3, 4)
        values[number, : rows * cols] = blocks.reshape(rows * cols, -1)
        mask[number, : rows * cols] = 1
        shapes[number] = torch.tensor([rows, cols])
    return {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--set", type=Path, default=Path("evaluation"), help="made by evaluation_set.py")
    options = parser.parse_args()
    data = read_set(options.set)
    for bits in (None, 8, 4):
        vectors = TorchVectors(options.model, bits)
        print(f"\n### {'float16' if bits is None else f'{bits} bit'}\n")
        print_table(measure(vectors.text_vectors, vectors.image_vectors, data))
        share = zero_shot(vectors.text_vectors, vectors.image_vectors, data, FAMILY_TEMPLATE)
        print(f"\n{ANSWERS}-way zero-shot on disturbed pictures: {share:.1f} %")


if __name__ == "__main__":
    main()
