"""Jina CLIP v2 (Koukounas et al., arXiv 2412.08802).

Unusual here:
- the file holds low-rank matrices beside the text tower's weights; they act on every text, so they are merged once;
- both towers turn queries and keys by their positions: texts in halves, base 20000, images in neighbouring pairs,
  by row and column;
- the vision tower drops the 8 pixels at the right and at the bottom that fill no patch;
- nothing projects the towers' vectors, and the first numbers of a vector are a vector of their own (Kusupati et al.,
  arXiv 2205.13147): cut first, then normalise.
"""

from collections.abc import Callable

from mlx_mm.models.jina_clip.config import ModelConfig
from mlx_mm.models.jina_clip.text import TextTower
from mlx_mm.models.jina_clip.vision import VisionTower
from mlx_mm.models.jina_clip.weights import rules
from mlx_mm.models.two_towers import SOFTMAX, TwoTowers


def joint(config: ModelConfig) -> TwoTowers:
    """Both towers and a scale."""
    return TwoTowers(config, rules(config), SOFTMAX, TextTower(config.text_config), VisionTower(config.vision_config))


# `architectures` of config.json -> what builds it; "" where the file names none
ARCHITECTURES: dict[str, Callable[[ModelConfig], TwoTowers]] = {"": joint, "JinaCLIPModel": joint}
