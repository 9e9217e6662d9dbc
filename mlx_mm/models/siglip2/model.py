"""SigLIP 1 and 2 (Zhai et al., arXiv 2303.15343; Tschannen et al., arXiv 2502.14786).

Unusual here:
- pairs are scored with a sigmoid, each on its own: the scores of several labels do not add up to one;
- the text tower sees padding and pools the last position, so texts must be padded to the trained length;
- the image vector comes from an attention-pooling head, and an image has no class token;
- `model_type` siglip (FixRes) and siglip2 (NaFlex) share every tensor name and differ in the embeddings.
"""

from collections.abc import Callable, Mapping

import mlx.core as mx

from mlx_mm.models.image_classifier import ImageClassifier, no_vision_config
from mlx_mm.models.one_tower import Input
from mlx_mm.models.siglip2.config import ModelConfig, NaflexVisionConfig
from mlx_mm.models.siglip2.text import TextTower
from mlx_mm.models.siglip2.vision import VisionTower
from mlx_mm.models.siglip2.weights import rules
from mlx_mm.models.two_towers import SIGMOID, TEXT_INPUTS, ImageTextModel, towers_of

NAFLEX_ORDER = ("pixel_attention_mask", "spatial_shapes", *TEXT_INPUTS)  # of transformers' Siglip2Model


def encoder(config: ModelConfig) -> ImageTextModel:
    """Both towers, or the one of the config."""
    text, vision = config.text_config, config.vision_config
    return towers_of(
        config,
        rules(config),
        SIGMOID,
        text=None if text is None else TextTower(text),
        vision=None if vision is None else VisionTower(vision),
        order=NAFLEX_ORDER if isinstance(vision, NaflexVisionConfig) else TEXT_INPUTS,
    )


def classifier(config: ModelConfig) -> ImageClassifier:
    """The vision tower with a layer of labels."""
    vision = config.vision_config
    if vision is None:
        raise no_vision_config()
    tower = VisionTower(vision)
    size, labels = vision.hidden_size, config.labels
    return ImageClassifier(config, rules(config), tower, size, mean_token, labels, config.problem_type)


def mean_token(x: mx.array, inputs: Mapping[str, Input]) -> mx.array:
    """(B, N, D) -> (B, D), without the padding of NaFlex images."""
    mask = inputs.get("pixel_attention_mask")
    if not isinstance(mask, mx.array):
        return x.mean(axis=1)
    keep = (mask != 0)[..., None]
    return mx.where(keep, x, 0).sum(axis=1) / keep.sum(axis=1)


# `architectures` of config.json -> what builds it; "" where the file names none
ARCHITECTURES: dict[str, Callable[[ModelConfig], ImageTextModel | ImageClassifier]] = {
    "": encoder,
    "SiglipModel": encoder,
    "SiglipTextModel": encoder,
    "SiglipVisionModel": encoder,
    "SiglipForImageClassification": classifier,
    "Siglip2Model": encoder,
    "Siglip2TextModel": encoder,
    "Siglip2VisionModel": encoder,
    "Siglip2ForImageClassification": classifier,
}
