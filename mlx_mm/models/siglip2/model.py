"""SigLIP 1 and 2 (Zhai et al., arXiv 2303.15343; Tschannen et al., arXiv 2502.14786).

Unusual here:
- pairs are scored with a sigmoid, each on its own: the scores of several labels do not add up to one;
- the text tower sees padding and pools the last position, so texts must be padded to the trained length;
- the image vector comes from an attention-pooling head, and a picture has no class token;
- `model_type` siglip (FixRes) and siglip2 (NaFlex) share every tensor name and differ in the embeddings.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.errors import ConfigError, InputError, ModalityError
from mlx_mm.layers.losses import classification_loss
from mlx_mm.layers.outputs import ImageClassifierOutput, ImageTextOutput, TowerOutput
from mlx_mm.layers.similarity import unit_length
from mlx_mm.models.siglip2.config import ModelConfig
from mlx_mm.models.siglip2.text import TextTower
from mlx_mm.models.siglip2.vision import VisionTower

DROPPED = "position_ids"  # a buffer that transformers before 4.31 saved
PATCH_KERNEL = "vision_model.embeddings.patch_embedding.weight"
PACKED = "vision_model.head.attention.in_proj_"


def sanitize(weights: dict[str, mx.array], config: ModelConfig) -> dict[str, mx.array]:
    """Hugging Face's tensors under our names and in our layout.

    Towers saved alone by transformers 5 lack their prefix; the pooling head's packed projection becomes
    q, k and v; a FixRes patch kernel (D, C, p, p) becomes the matrix (D, p·p·C).
    """
    alone = config.text_config is None or config.vision_config is None
    prefix = "text_model." if config.vision_config is None else "vision_model."
    result = {}
    for name, weight in weights.items():
        if name.endswith(DROPPED):
            continue
        if alone and not name.startswith((prefix, "classifier.")):
            name = prefix + name
        if name == PATCH_KERNEL and weight.ndim == 4:
            result[name] = weight.transpose(0, 2, 3, 1).flatten(1)
        elif name.startswith(PACKED) and weight.shape[0] % 3 == 0:
            kind = name[len(PACKED) :]
            for part, piece in zip("qkv", mx.split(weight, 3), strict=True):
                result[f"vision_model.head.attention.{part}_proj.{kind}"] = piece
        else:
            result[name] = weight
    return result


def pairwise_sigmoid_loss(logits: mx.array | None) -> mx.array:
    """Mean over texts of −Σ log σ(±logit), + for the own picture (SigLIP, arXiv 2303.15343, algorithm 1)."""
    if logits is None or logits.shape[0] != logits.shape[1]:
        raise InputError(
            "return_loss compares pairs: expected as many texts as pictures, "
            f"found {'one kind only' if logits is None else f'{logits.shape[0]} and {logits.shape[1]}'}."
        )
    signs = 2 * mx.eye(logits.shape[0]) - 1
    return -nn.log_sigmoid(signs * logits).sum(axis=-1).mean()


def quant_predicate(path: str, _module: nn.Module) -> bool:
    """Position tables stay as they are: they are resized, small, and added to every token."""
    return not path.endswith("position_embedding")


class Model(nn.Module):
    """Both towers with a scale and a bias, or one tower alone: the absent one is None."""

    labels = None
    score_function = "sigmoid"
    prompt_template = "This is a photo of {}."  # transformers' zero-shot pipeline

    def __init__(self, config: ModelConfig):
        super().__init__()
        self._config = config
        self.text_model = None if config.text_config is None else TextTower(config.text_config)
        self.vision_model = None if config.vision_config is None else VisionTower(config.vision_config)
        if self.text_model is not None and self.vision_model is not None:
            self.logit_scale = mx.zeros((1,))
            self.logit_bias = mx.zeros((1,))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of "text" and "image" this checkpoint has a tower for."""
        towers = {"text": self.text_model, "image": self.vision_model}
        return tuple(name for name, tower in towers.items() if tower is not None)

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
        text = vision = text_embeds = image_embeds = None
        if input_ids is not None:
            text = self._text_tower()(input_ids, attention_mask, position_ids, **extras)
            text_embeds = unit_length(_pooled(text))
        if pixel_values is not None:
            vision = self._vision_tower()(
                pixel_values, pixel_attention_mask, spatial_shapes, interpolate_pos_encoding, **extras
            )
            image_embeds = unit_length(_pooled(vision))
        if text_embeds is None and image_embeds is None:
            raise InputError("The model was called without input_ids and without pixel_values; give at least one.")
        logits = loss = None
        if text_embeds is not None and image_embeds is not None:
            logits = self._logits(text_embeds, image_embeds)
        if return_loss:
            loss = pairwise_sigmoid_loss(logits)
        return ImageTextOutput(
            loss=loss,
            logits_per_image=None if logits is None else logits.T,
            logits_per_text=logits,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=vision,
        )

    def get_text_features(
        self,
        input_ids: mx.array,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
    ) -> mx.array:
        """(B, L) -> (B, D), not normalised."""
        return _pooled(self._text_tower()(input_ids, attention_mask, position_ids))

    def get_image_features(
        self,
        pixel_values: mx.array,
        pixel_attention_mask: mx.array | None = None,
        spatial_shapes: mx.array | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> mx.array:
        """(B, H, W, 3), or NaFlex patches (B, P, size·size·3) with mask and shapes -> (B, D), not normalised."""
        return _pooled(
            self._vision_tower()(pixel_values, pixel_attention_mask, spatial_shapes, interpolate_pos_encoding)
        )

    def score(self, items: mx.array, labels: mx.array) -> mx.array:
        """Probability that picture i shows label j, from unit vectors (N, D) and (M, D) -> (N, M)."""
        return mx.sigmoid(self._logits(items, labels))

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """See `sanitize`."""
        return sanitize(weights, self._config)

    def quant_predicate(self, path: str, module: nn.Module) -> bool:
        """See `quant_predicate`."""
        return quant_predicate(path, module)

    def _text_tower(self) -> TextTower:
        if self.text_model is None:
            raise ModalityError("This checkpoint has no text tower; it takes images only. Use a joint checkpoint.")
        return self.text_model

    def _vision_tower(self) -> VisionTower:
        if self.vision_model is None:
            raise ModalityError("This checkpoint has no vision tower; it takes text only. Use a joint checkpoint.")
        return self.vision_model

    def _logits(self, a: mx.array, b: mx.array) -> mx.array:
        return a @ b.T * mx.exp(self.logit_scale) + self.logit_bias


class ImageClassifier(nn.Module):
    """The vision tower with a linear layer over the mean of its tokens; the pooling head is loaded, not used."""

    score_function = "softmax"
    modalities = ("image",)

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.vision_config is None:
            raise ConfigError("config.json names an image classifier but has no vision_config. Use the complete file.")
        self._config = config
        self.labels = config.labels
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
        logits = self.classifier(mean)
        loss = None if labels is None else classification_loss(logits, labels)
        return ImageClassifierOutput(loss, logits, tower.hidden_states, tower.attentions)

    def class_scores(self, logits: mx.array) -> mx.array:
        """Probabilities (B, labels) as transformers' pipeline: softmax, or sigmoid for independent labels."""
        if len(self.labels) == 1 or self._config.problem_type == "multi_label_classification":
            return mx.sigmoid(logits)
        return mx.softmax(logits, axis=-1)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """See `sanitize`."""
        return sanitize(weights, self._config)

    def quant_predicate(self, path: str, module: nn.Module) -> bool:
        """See `quant_predicate`; the classifier is small and decides alone, it stays too."""
        return path != "classifier" and quant_predicate(path, module)


def _pooled(output: TowerOutput) -> mx.array:
    if output.pooler_output is None:
        raise ModalityError(
            "This vision tower has no pooling head (vision_use_head is false), so it gives no image vector. "
            "Call model.vision_model for its last_hidden_state."
        )
    return output.pooler_output


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
