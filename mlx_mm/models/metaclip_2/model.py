"""MetaCLIP 2 (Chuang et al., arXiv 2507.22062) and CLIP (Radford et al., arXiv 2103.00020).

Unusual here:
- a text's vector is read at its first end token; CLIP's files of before 2023 mean the highest id instead;
- of an image's tokens only the class token is normalised after the encoder, and only in the pooled vector;
- the activation is quick_gelu in CLIP and in one MetaCLIP 2 checkpoint, erf-GELU in the others: the config tells;
- half of the huge model is its table of 901,629 tokens.
"""

from collections.abc import Callable, Mapping

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.models.image_classifier import ImageClassifier, no_vision_config
from mlx_mm.models.metaclip_2.config import ModelConfig, TextConfig, VisionConfig
from mlx_mm.models.metaclip_2.text import TextTower
from mlx_mm.models.metaclip_2.vision import VisionTower
from mlx_mm.models.metaclip_2.weights import rules
from mlx_mm.models.one_tower import Input
from mlx_mm.models.two_towers import SOFTMAX, ImageTextModel, towers_of


def encoder(config: ModelConfig) -> ImageTextModel:
    """Both towers with their projections, or the one of the config, with or without it."""
    text, vision = config.text_config, config.vision_config
    return towers_of(
        config,
        rules(config),
        SOFTMAX,
        text=None if text is None else TextTower(text),
        vision=None if vision is None else VisionTower(vision),
        text_projection=_projection(text, config.projection_dim),
        visual_projection=_projection(vision, config.projection_dim),
    )


def classifier(config: ModelConfig) -> ImageClassifier:
    """The vision tower with a layer of labels."""
    vision = config.vision_config
    if vision is None:
        raise no_vision_config()
    tower = VisionTower(vision)
    size, labels = vision.hidden_size, config.labels
    return ImageClassifier(config, rules(config), tower, size, mean_patch, labels, config.problem_type)


def mean_patch(x: mx.array, _inputs: Mapping[str, Input]) -> mx.array:
    """(B, 1 + N, D) -> (B, D), without the class token."""
    return x[:, 1:].mean(axis=1)


def _projection(tower: TextConfig | VisionConfig | None, dims: int | None) -> nn.Linear | None:
    return None if tower is None or dims is None else nn.Linear(tower.hidden_size, dims, bias=False)


# `architectures` of config.json -> what builds it; "" where the file names none
ARCHITECTURES: dict[str, Callable[[ModelConfig], ImageTextModel | ImageClassifier]] = {
    "": encoder,
    "MetaClip2Model": encoder,
    "MetaCLIP2Model": encoder,  # so spelled by some of the hub's files
    "MetaClip2TextModel": encoder,
    "MetaClip2TextModelWithProjection": encoder,
    "MetaClip2VisionModel": encoder,
    "MetaClip2VisionModelWithProjection": encoder,
    "MetaClip2ForImageClassification": classifier,
    "CLIPModel": encoder,
    "CLIPTextModel": encoder,
    "CLIPTextModelWithProjection": encoder,
    "CLIPVisionModel": encoder,
    "CLIPVisionModelWithProjection": encoder,
    "CLIPForImageClassification": classifier,
}
