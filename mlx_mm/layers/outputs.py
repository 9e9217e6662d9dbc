"""What towers and joint models return. Field names are Hugging Face's."""

from dataclasses import dataclass

import mlx.core as mx

from mlx_mm.errors import ModalityError


@dataclass(frozen=True)
class TowerOutput:
    """Result of one tower.

    last_hidden_state: (B, L, D), after the final norm where the tower has one for all tokens.
    pooler_output: (B, D), not normalised; None where the tower has no pooling head.
    hidden_states: embeddings, then the raw output of each layer, each (B, L, D); None unless asked for.
    attentions: softmax weights of each layer, (B, H, L, L); None unless asked for.
    """

    last_hidden_state: mx.array
    pooler_output: mx.array | None
    hidden_states: tuple[mx.array, ...] | None = None
    attentions: tuple[mx.array, ...] | None = None


def pooled(output: TowerOutput) -> mx.array:
    """The vector (B, D) of a tower; ModalityError where it has none."""
    if output.pooler_output is None:
        raise ModalityError(
            "This vision tower has no pooling head (vision_use_head is false), so it gives no image vector. "
            "Call model.vision_model for its last_hidden_state."
        )
    return output.pooler_output


@dataclass(frozen=True)
class TextEmbedsOutput:
    """Result of a text tower with its projection. text_embeds: (B, D), projected, not normalised; the rest as above."""

    text_embeds: mx.array
    last_hidden_state: mx.array
    hidden_states: tuple[mx.array, ...] | None = None
    attentions: tuple[mx.array, ...] | None = None


@dataclass(frozen=True)
class ImageEmbedsOutput:
    """Result of a vision tower with its projection. image_embeds: (B, D), projected, not normalised."""

    image_embeds: mx.array
    last_hidden_state: mx.array
    hidden_states: tuple[mx.array, ...] | None = None
    attentions: tuple[mx.array, ...] | None = None


@dataclass(frozen=True)
class AudioEmbedsOutput:
    """Result of an audio tower with its projection. audio_embeds: (B, D), projected, not normalised."""

    audio_embeds: mx.array
    last_hidden_state: mx.array
    hidden_states: tuple[mx.array, ...] | None = None
    attentions: tuple[mx.array, ...] | None = None


@dataclass(frozen=True)
class ImageTextOutput:
    """Result of a joint model of images and texts; fields of an absent modality are None.

    loss: (), only with `return_loss`. logits_per_image: (images, texts); logits_per_text: its transpose.
    text_embeds, image_embeds: (B, D), of unit length.
    """

    loss: mx.array | None = None
    logits_per_image: mx.array | None = None
    logits_per_text: mx.array | None = None
    text_embeds: mx.array | None = None
    image_embeds: mx.array | None = None
    text_model_output: TowerOutput | None = None
    vision_model_output: TowerOutput | None = None


@dataclass(frozen=True)
class AudioTextOutput:
    """Result of a joint model of audio and texts; fields of an absent modality are None.

    loss: (), only with `return_loss`. logits_per_audio: (audio, texts); logits_per_text: (texts, audio), with a
    scale of its own. text_embeds, audio_embeds: (B, D).
    """

    loss: mx.array | None = None
    logits_per_audio: mx.array | None = None
    logits_per_text: mx.array | None = None
    text_embeds: mx.array | None = None
    audio_embeds: mx.array | None = None
    text_model_output: TowerOutput | None = None
    audio_model_output: TowerOutput | None = None


@dataclass(frozen=True)
class ImageClassifierOutput:
    """Result of an image classifier. loss: (), only with `labels`; logits: (B, labels)."""

    loss: mx.array | None
    logits: mx.array
    hidden_states: tuple[mx.array, ...] | None = None
    attentions: tuple[mx.array, ...] | None = None


@dataclass(frozen=True)
class DecoderOutput:
    """Result of a language model without its head.

    last_hidden_state: (B, L, D). rope_deltas: (B,), how far a row's next token stands from its count of tokens; None
    where the positions were given. hidden_states: embeddings and the output of each layer, the last one normed.
    attentions: softmax weights of each layer, (B, H, L, S).
    """

    last_hidden_state: mx.array
    hidden_states: tuple[mx.array, ...] | None = None
    attentions: tuple[mx.array, ...] | None = None
    rope_deltas: mx.array | None = None


@dataclass(frozen=True)
class CausalLMOutput:
    """Result of a language model. loss: (), only with `labels`; logits: (B, L, vocabulary); the rest as above."""

    loss: mx.array | None
    logits: mx.array
    hidden_states: tuple[mx.array, ...] | None = None
    attentions: tuple[mx.array, ...] | None = None
    rope_deltas: mx.array | None = None
