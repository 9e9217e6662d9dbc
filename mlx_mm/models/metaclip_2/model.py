"""MetaCLIP 2 (Chuang et al., arXiv 2507.22062) and CLIP (Radford et al., arXiv 2103.00020).

Unusual here:
- a text's vector is read at its first end token; CLIP's files of before 2023 mean the highest id instead;
- of the pictures' tokens only the class token is normalised after the encoder, and only in the pooled vector;
- the activation is quick_gelu in CLIP and in one MetaCLIP 2 checkpoint, erf-GELU in the others: the config tells;
- half of the huge model is its table of 901,629 tokens.
"""

from dataclasses import replace
from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.layers.classification import class_scores, classifier_output
from mlx_mm.layers.embeddings import kernel_matrix
from mlx_mm.layers.losses import contrastive_loss
from mlx_mm.layers.outputs import ImageClassifierOutput, ImageTextOutput, TowerOutput, pooled
from mlx_mm.layers.similarity import compare
from mlx_mm.models.contracts import Modality
from mlx_mm.models.metaclip_2.config import ModelConfig, TextConfig, VisionConfig
from mlx_mm.models.metaclip_2.text import TextTower
from mlx_mm.models.metaclip_2.vision import VisionTower
from mlx_mm.models.modalities import present, require_tower
from mlx_mm.models.weights import complete_names

PATCH_KERNEL = "vision_model.embeddings.patch_embedding.weight"
BESIDE_TOWERS = ("text_projection.", "visual_projection.", "classifier.")
KEPT_EXACT = ("position_embedding", "patch_embedding", "classifier")


def sanitize_weights(model: "Model | ImageClassifier", weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Hugging Face's tensors under our names; the patch kernel (D, C, p, p) becomes the matrix (D, p·p·C)."""
    tower = None
    if model.config.vision_config is None:
        tower = "text_model."
    elif model.config.text_config is None:
        tower = "vision_model."
    weights = complete_names(weights, tower, BESIDE_TOWERS)
    if PATCH_KERNEL in weights and weights[PATCH_KERNEL].ndim == 4:
        weights[PATCH_KERNEL] = kernel_matrix(weights[PATCH_KERNEL])
    return weights


def is_quantizable(_model: "Model | ImageClassifier", path: str, _module: nn.Module) -> bool:
    """Positions, the patch kernel and a classifier's last layer stay as they are: they are small and weigh much."""
    return not path.endswith(KEPT_EXACT)


class Model(nn.Module):
    """Both towers with their projections and a scale, or one tower with or without its projection."""

    kind: Literal["encoder"] = "encoder"
    prompt_template = "This is a photo of {}."  # transformers' zero-shot pipeline
    sanitize = sanitize_weights
    quant_predicate = is_quantizable

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        text, vision = config.text_config, config.vision_config
        self.text_model = None if text is None else TextTower(text)
        self.vision_model = None if vision is None else VisionTower(vision)
        self.text_projection = _projection(text, config.projection_dim)
        self.visual_projection = _projection(vision, config.projection_dim)
        if text is not None and vision is not None:
            self.logit_scale = mx.zeros(())

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Which of "text" and "image" this checkpoint has a tower for."""
        return present(text=self.text_model, image=self.vision_model)

    def modules_for(self, modality: Modality) -> tuple[nn.Module | None, ...]:
        """The modules that the features of a modality are computed with."""
        if modality == "text":
            return self.text_model, self.text_projection
        return self.vision_model, self.visual_projection

    def __call__(
        self,
        input_ids: mx.array | None = None,
        pixel_values: mx.array | None = None,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        return_loss: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ImageTextOutput:
        """Texts (B, L), pictures (B, H, W, 3), or both -> ImageTextOutput.

        The towers' pooler_output are the projected vectors, as in transformers 5. return_loss: the contrastive loss;
        the n-th text belongs to the n-th picture. Raises InputError without any input, or without pairs for a loss.
        """
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        text = vision = None
        if input_ids is not None:
            text = self._encode_text(input_ids, attention_mask, position_ids, **extras)
        if pixel_values is not None:
            vision = self._encode_image(pixel_values, interpolate_pos_encoding, **extras)
        return compare(text, vision, self._logits, contrastive_loss if return_loss else None)

    def get_text_features(
        self, input_ids: mx.array, attention_mask: mx.array | None = None, position_ids: mx.array | None = None
    ) -> mx.array:
        """(B, L) -> (B, projection_dim), not normalised; of a tower without projection its pooled vector."""
        return pooled(self._encode_text(input_ids, attention_mask, position_ids))

    def get_image_features(self, pixel_values: mx.array, interpolate_pos_encoding: bool = False) -> mx.array:
        """(B, H, W, 3) -> (B, projection_dim), not normalised; of a tower without projection its pooled vector."""
        return pooled(self._encode_image(pixel_values, interpolate_pos_encoding))

    def score(self, items: mx.array, labels: mx.array) -> mx.array:
        """Probability that picture i shows label j and no other, from unit vectors (N, D) and (M, D) -> (N, M)."""
        return mx.softmax(self._logits(items, labels), axis=-1, precise=True)

    def _encode_text(
        self, input_ids: mx.array, attention_mask: mx.array | None, position_ids: mx.array | None, **extras: bool
    ) -> TowerOutput:
        tower = require_tower(self.text_model, "text", "images")
        return _project(tower(input_ids, attention_mask, position_ids, **extras), self.text_projection)

    def _encode_image(self, pixel_values: mx.array, interpolate_pos_encoding: bool, **extras: bool) -> TowerOutput:
        tower = require_tower(self.vision_model, "vision", "text")
        return _project(tower(pixel_values, interpolate_pos_encoding, **extras), self.visual_projection)

    def _logits(self, a: mx.array, b: mx.array) -> mx.array:
        return a @ b.T * mx.exp(self.logit_scale)


class ImageClassifier(nn.Module):
    """The vision tower with a linear layer over the mean of its patches, without the class token."""

    kind: Literal["classifier"] = "classifier"
    modalities = ("image",)
    sanitize = sanitize_weights
    quant_predicate = is_quantizable

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, self.labels = config, config.labels
        vision = require_tower(config.vision_config, "vision", "text")
        self.vision_model = VisionTower(vision)
        self.classifier = nn.Linear(vision.hidden_size, len(config.labels))

    def __call__(
        self,
        pixel_values: mx.array,
        labels: mx.array | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ImageClassifierOutput:
        """Pictures (B, H, W, 3) -> logits (B, labels).

        labels: class ids (B,), or floats: (B,) for one output, (B, labels) for several labels at once.
        """
        tower = self.vision_model(
            pixel_values,
            interpolate_pos_encoding,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return classifier_output(self.classifier(tower.last_hidden_state[:, 1:].mean(axis=1)), labels, tower)

    def modules_for(self, _modality: Modality) -> tuple[nn.Module | None, ...]:
        """All of it."""
        return (self,)

    def class_scores(self, pixel_values: mx.array) -> mx.array:
        """The processor's arrays -> probabilities of the labels (B, labels)."""
        return class_scores(self(pixel_values).logits, self.config.problem_type)


def _projection(tower: TextConfig | VisionConfig | None, dims: int | None) -> nn.Linear | None:
    return None if tower is None or dims is None else nn.Linear(tower.hidden_size, dims, bias=False)


def _project(output: TowerOutput, projection: nn.Linear | None) -> TowerOutput:
    """The same output with its pooled vector projected."""
    return output if projection is None else replace(output, pooler_output=projection(pooled(output)))


# `architectures` of config.json -> class; "" where the file names none
ARCHITECTURES = {
    "": Model,
    "MetaClip2Model": Model,
    "MetaCLIP2Model": Model,  # so spelled by some of the hub's files
    "MetaClip2TextModel": Model,
    "MetaClip2TextModelWithProjection": Model,
    "MetaClip2VisionModel": Model,
    "MetaClip2VisionModelWithProjection": Model,
    "MetaClip2ForImageClassification": ImageClassifier,
    "CLIPModel": Model,
    "CLIPTextModel": Model,
    "CLIPTextModelWithProjection": Model,
    "CLIPVisionModel": Model,
    "CLIPVisionModelWithProjection": Model,
    "CLIPForImageClassification": ImageClassifier,
}
