"""SigLIP 1 and 2 (Zhai et al., arXiv 2303.15343; Tschannen et al., arXiv 2502.14786).

Unusual here:
- pairs are scored with a sigmoid, each on its own: the scores of several labels do not add up to one;
- the text tower sees padding and pools the last position, so texts must be padded to the trained length;
- the image vector comes from an attention-pooling head, and a picture has no class token;
- `model_type` siglip (FixRes) and siglip2 (NaFlex) share every tensor name and differ in the embeddings.
"""

from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.errors import ConfigError
from mlx_mm.layers.classification import class_scores, classifier_output
from mlx_mm.layers.embeddings import kernel_matrix
from mlx_mm.layers.losses import pairwise_sigmoid_loss
from mlx_mm.layers.outputs import ImageClassifierOutput, ImageTextOutput, pooled
from mlx_mm.layers.similarity import compare
from mlx_mm.models.contracts import Modality
from mlx_mm.models.modalities import present, require_tower
from mlx_mm.models.siglip2.config import ModelConfig
from mlx_mm.models.siglip2.text import TextTower
from mlx_mm.models.siglip2.vision import VisionTower
from mlx_mm.models.weights import complete_names

PATCH_KERNEL = "vision_model.embeddings.patch_embedding.weight"
KEPT_EXACT = ("position_embedding", "classifier")
PACKED = "vision_model.head.attention.in_proj_"


def sanitize_weights(model: "Model | ImageClassifier", weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Hugging Face's tensors under our names and in our layout.

    Towers saved alone by transformers 5 lack their prefix; the pooling head's packed projection becomes
    q, k and v; a FixRes patch kernel (D, C, p, p) becomes the matrix (D, p·p·C).
    """
    tower = None
    config = model.config
    if config.text_config is None or config.vision_config is None:
        tower = "text_model." if config.vision_config is None else "vision_model."
    result = {}
    for name, weight in complete_names(weights, tower, ("classifier.",)).items():
        if name == PATCH_KERNEL and weight.ndim == 4:
            result[name] = kernel_matrix(weight)
        elif name.startswith(PACKED) and weight.shape[0] % 3 == 0:
            kind = name[len(PACKED) :]
            for part, piece in zip("qkv", mx.split(weight, 3), strict=True):
                result[f"vision_model.head.attention.{part}_proj.{kind}"] = piece
        else:
            result[name] = weight
    return result


def is_quantizable(_model: "Model | ImageClassifier", path: str, _module: nn.Module) -> bool:
    """Position tables stay as they are: they are resized, small, and added to every token. So does a classifier's
    last layer, which is small too and decides alone."""
    return not path.endswith(KEPT_EXACT)


class Model(nn.Module):
    """Both towers with a scale and a bias, or one tower alone: the absent one is None."""

    kind: Literal["encoder"] = "encoder"
    prompt_template = "This is a photo of {}."  # transformers' zero-shot pipeline
    sanitize = sanitize_weights
    quant_predicate = is_quantizable

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.text_model = None if config.text_config is None else TextTower(config.text_config)
        self.vision_model = None if config.vision_config is None else VisionTower(config.vision_config)
        if self.text_model is not None and self.vision_model is not None:
            self.logit_scale = mx.zeros((1,))
            self.logit_bias = mx.zeros((1,))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Which of "text" and "image" this checkpoint has a tower for."""
        return present(text=self.text_model, image=self.vision_model)

    def modules_for(self, modality: Modality) -> tuple[nn.Module | None, ...]:
        """The modules that the features of a modality are computed with."""
        return (self.text_model,) if modality == "text" else (self.vision_model,)

    def __call__(
        self,
        input_ids: mx.array | None = None,
        pixel_values: mx.array | None = None,
        pixel_attention_mask: mx.array | None = None,
        spatial_shapes: mx.array | None = None,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        return_loss: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ImageTextOutput:
        """Texts (B, L), pictures (B, …), or both -> ImageTextOutput.

        return_loss: the pair-wise sigmoid loss; the n-th text belongs to the n-th picture.
        Raises InputError without any input, or where a loss is asked for without pairs.
        """
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        text = vision = None
        if input_ids is not None:
            text = self._text_tower()(input_ids, attention_mask, position_ids, **extras)
        if pixel_values is not None:
            vision = self._vision_tower()(
                pixel_values, pixel_attention_mask, spatial_shapes, interpolate_pos_encoding, **extras
            )
        return compare(text, vision, self._logits, pairwise_sigmoid_loss if return_loss else None)

    def get_text_features(
        self,
        input_ids: mx.array,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
    ) -> mx.array:
        """(B, L) -> (B, D), not normalised."""
        return pooled(self._text_tower()(input_ids, attention_mask, position_ids))

    def get_image_features(
        self,
        pixel_values: mx.array,
        pixel_attention_mask: mx.array | None = None,
        spatial_shapes: mx.array | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> mx.array:
        """(B, H, W, 3), or NaFlex patches (B, P, size·size·3) with mask and shapes -> (B, D), not normalised."""
        return pooled(
            self._vision_tower()(pixel_values, pixel_attention_mask, spatial_shapes, interpolate_pos_encoding)
        )

    def score(self, items: mx.array, labels: mx.array) -> mx.array:
        """Probability that picture i shows label j, from unit vectors (N, D) and (M, D) -> (N, M)."""
        return mx.sigmoid(self._logits(items, labels))

    def _text_tower(self) -> TextTower:
        return require_tower(self.text_model, "text", "images")

    def _vision_tower(self) -> VisionTower:
        return require_tower(self.vision_model, "vision", "text")

    def _logits(self, a: mx.array, b: mx.array) -> mx.array:
        return a @ b.T * mx.exp(self.logit_scale) + self.logit_bias


class ImageClassifier(nn.Module):
    """The vision tower with a linear layer over the mean of its tokens; the pooling head is loaded, not used."""

    kind: Literal["classifier"] = "classifier"
    modalities = ("image",)
    sanitize = sanitize_weights
    quant_predicate = is_quantizable

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, self.labels = config, config.labels
        if config.vision_config is None:
            raise ConfigError("config.json names an image classifier but has no vision_config. Use the complete file.")
        self.vision_model = VisionTower(config.vision_config)
        self.classifier = nn.Linear(config.vision_config.hidden_size, len(config.labels))

    def __call__(
        self,
        pixel_values: mx.array,
        pixel_attention_mask: mx.array | None = None,
        spatial_shapes: mx.array | None = None,
        labels: mx.array | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ImageClassifierOutput:
        """Pictures as in `Model` -> logits (B, labels).

        labels: class ids (B,), or floats: (B,) for one output, (B, labels) for several labels at once.
        """
        tower = self.vision_model(
            pixel_values,
            pixel_attention_mask,
            spatial_shapes,
            interpolate_pos_encoding,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        x = tower.last_hidden_state
        if pixel_attention_mask is None:
            mean = x.mean(axis=1)
        else:
            keep = (pixel_attention_mask != 0)[..., None]
            mean = mx.where(keep, x, 0).sum(axis=1) / keep.sum(axis=1)
        return classifier_output(self.classifier(mean), labels, tower)

    def modules_for(self, _modality: Modality) -> tuple[nn.Module | None, ...]:
        """All of it."""
        return (self,)

    def class_scores(
        self,
        pixel_values: mx.array,
        pixel_attention_mask: mx.array | None = None,
        spatial_shapes: mx.array | None = None,
    ) -> mx.array:
        """The processor's arrays -> probabilities of the labels (B, labels)."""
        logits = self(pixel_values, pixel_attention_mask, spatial_shapes).logits
        return class_scores(logits, self.config.problem_type)


# `architectures` of config.json -> class; "" where the file names none
ARCHITECTURES = {
    "": Model,
    "SiglipModel": Model,
    "SiglipTextModel": Model,
    "SiglipVisionModel": Model,
    "SiglipForImageClassification": ImageClassifier,
    "Siglip2Model": Model,
    "Siglip2TextModel": Model,
    "Siglip2VisionModel": Model,
    "Siglip2ForImageClassification": ImageClassifier,
}
