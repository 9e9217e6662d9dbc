"""One tower alone, as transformers' …TextModel, …VisionModel and …AudioModel, or with its projection.

A family hands in its tower and what it says about tensors. What a tower takes beside its first input is between the
tower and the family's processor.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.linear import linear
from mlx_mm.errors import ModalityError
from mlx_mm.layers.outputs import AudioEmbedsOutput, ImageEmbedsOutput, TextEmbedsOutput, TowerOutput, pooled
from mlx_mm.models.config import FamilyConfig
from mlx_mm.models.contracts import Modality
from mlx_mm.models.weights import AUDIO_PARTS, IMAGE_PARTS, TEXT_PARTS, Towers, WeightRules

Input: TypeAlias = mx.array | bool | None
IMAGE_PROMPT = "This is a photo of {}."  # of transformers' zero-shot pipelines
AUDIO_PROMPT = "This is a sound of {}."


def _lacking(part: str, other: str) -> Callable[..., mx.array]:
    """A method for what only a joint model can do: it raises ModalityError."""

    def refuse(_model: nn.Module, *_inputs: Input, **_options: Input) -> mx.array:
        raise ModalityError(f"This checkpoint has no {part} tower; it takes {other} only. Use a joint checkpoint.")

    return refuse


def project(projection: nn.Module, vectors: mx.array) -> mx.array:
    """(B, D) -> (B, E), by a matrix or by what a family has instead."""
    return linear(projection, vectors) if "weight" in projection else projection(vectors)


class TextModel(nn.Module):
    """A text tower, with or without its projection."""

    kind: Literal["encoder"] = "encoder"
    modalities: tuple[Modality, ...] = ("text",)
    towers: ClassVar[Towers] = {"text": TEXT_PARTS}
    prompt_template = IMAGE_PROMPT
    get_image_features = _lacking("vision", "text")
    get_audio_features = _lacking("audio", "text")
    score = _lacking("second", "text")

    def __init__(
        self, config: FamilyConfig, rules: WeightRules, text_model: nn.Module, text_projection: nn.Module | None = None
    ):
        super().__init__()
        self.config = config
        self.sanitize, self.restore, self.quant_predicate, self.cast_predicate, self.padded_axes = rules
        self.text_model, self.text_projection = text_model, text_projection

    def __call__(
        self,
        input_ids: mx.array,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput | TextEmbedsOutput:
        """Texts (B, L) -> the tower's output; with a projection, its pooled vector projected."""
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        out: TowerOutput = self.text_model(input_ids, attention_mask, position_ids, **extras)
        if self.text_projection is None:
            return out
        embeds = project(self.text_projection, pooled(out))
        return TextEmbedsOutput(embeds, out.last_hidden_state, out.hidden_states, out.attentions)

    def get_text_features(
        self, input_ids: mx.array, attention_mask: mx.array | None = None, position_ids: mx.array | None = None
    ) -> mx.array:
        """(B, L) -> (B, D), not normalised; without a projection the pooled vector."""
        vectors = pooled(self.text_model(input_ids, attention_mask, position_ids))
        return vectors if self.text_projection is None else project(self.text_projection, vectors)

    def get_input_embeddings(self) -> nn.Module:
        """The table of tokens."""
        table: nn.Module = self.text_model.embeddings.token_embedding
        return table

    def modules_for(self, _modality: Modality) -> tuple[nn.Module | None, ...]:
        """All of it."""
        return self.text_model, self.text_projection


class VisionModel(nn.Module):
    """A vision tower, with or without its projection."""

    kind: Literal["encoder"] = "encoder"
    modalities: tuple[Modality, ...] = ("image",)
    towers: ClassVar[Towers] = {"image": IMAGE_PARTS}
    prompt_template = IMAGE_PROMPT
    get_text_features = _lacking("text", "images")
    score = _lacking("second", "images")

    def __init__(
        self,
        config: FamilyConfig,
        rules: WeightRules,
        vision_model: nn.Module,
        visual_projection: nn.Module | None = None,
    ):
        super().__init__()
        self.config = config
        self.sanitize, self.restore, self.quant_predicate, self.cast_predicate, self.padded_axes = rules
        self.vision_model, self.visual_projection = vision_model, visual_projection

    def __call__(
        self,
        pixel_values: mx.array,
        *others: Input,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **inputs: Input,
    ) -> TowerOutput | ImageEmbedsOutput:
        """Images, with what else the tower takes, in its order or by name -> its output; with a projection, its pooled
        vector projected."""
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        out: TowerOutput = self.vision_model(pixel_values, *others, **inputs, **extras)
        if self.visual_projection is None:
            return out
        embeds = project(self.visual_projection, pooled(out))
        return ImageEmbedsOutput(embeds, out.last_hidden_state, out.hidden_states, out.attentions)

    def get_image_features(self, pixel_values: mx.array, *others: Input, **inputs: Input) -> mx.array:
        """Images -> (B, D), not normalised; without a projection the pooled vector. ModalityError where none is."""
        vectors = pooled(self.vision_model(pixel_values, *others, **inputs))
        return vectors if self.visual_projection is None else project(self.visual_projection, vectors)

    def get_input_embeddings(self) -> nn.Module:
        """The projection of patches."""
        patches: nn.Module = self.vision_model.embeddings.patch_embedding
        return patches

    def modules_for(self, _modality: Modality) -> tuple[nn.Module | None, ...]:
        """All of it."""
        return self.vision_model, self.visual_projection


class AudioModel(nn.Module):
    """An audio tower, with or without its projection."""

    kind: Literal["encoder"] = "encoder"
    modalities: tuple[Modality, ...] = ("audio",)
    towers: ClassVar[Towers] = {"audio": AUDIO_PARTS}
    prompt_template = AUDIO_PROMPT
    get_text_features = _lacking("text", "audio")
    score = _lacking("second", "audio")

    def __init__(
        self,
        config: FamilyConfig,
        rules: WeightRules,
        audio_model: nn.Module,
        audio_projection: nn.Module | None = None,
    ):
        super().__init__()
        self.config = config
        self.sanitize, self.restore, self.quant_predicate, self.cast_predicate, self.padded_axes = rules
        self.audio_model, self.audio_projection = audio_model, audio_projection

    def __call__(
        self,
        input_features: mx.array,
        is_longer: mx.array | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput | AudioEmbedsOutput:
        """Spectrograms (B, C, T, F) -> the tower's output; with a projection, its pooled vector projected."""
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        out: TowerOutput = self.audio_model(input_features, is_longer, **extras)
        if self.audio_projection is None:
            return out
        embeds = project(self.audio_projection, pooled(out))
        return AudioEmbedsOutput(embeds, out.last_hidden_state, out.hidden_states, out.attentions)

    def get_audio_features(self, input_features: mx.array, is_longer: mx.array | None = None) -> mx.array:
        """(B, C, T, F) -> (B, D), not normalised; without a projection the pooled vector."""
        vectors = pooled(self.audio_model(input_features, is_longer))
        return vectors if self.audio_projection is None else project(self.audio_projection, vectors)

    def get_input_embeddings(self) -> nn.Module:
        """The projection of patches."""
        patches: nn.Module = self.audio_model.patch_embed.proj
        return patches

    def modules_for(self, _modality: Modality) -> tuple[nn.Module | None, ...]:
        """All of it."""
        return self.audio_model, self.audio_projection
