"""CLAP (Wu et al., arXiv 2211.06687): sounds and texts in one space.

Unusual here:
- sounds come as log-mel spectrograms whose time axis is folded into four parts, so that a square picture results;
- of a clip that was cut, a model with fusion sees the whole, squeezed, and three parts of it; that this is switched on
  by enable_fusion alone, the files' fusion_type is null;
- each of the two matrices of logits has a scale of its own, and both terms of the loss go from text to sound;
- the vectors of a joint model have unit length already, those of a tower saved with its projection do not: both as in
  transformers;
- a text's attention mask, where it is not given, is read from the padding; transformers then shows the padding.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.linear import linear
from mlx_mm.layers.activations import activation
from mlx_mm.layers.losses import own_column_loss
from mlx_mm.layers.outputs import AudioTextOutput, TowerOutput, pooled
from mlx_mm.layers.similarity import check_inputs, check_pairs, unit_length
from mlx_mm.models.clap.audio import AudioTower
from mlx_mm.models.clap.config import AudioConfig, ModelConfig, ProjectionConfig, TextConfig
from mlx_mm.models.clap.text import TextTower
from mlx_mm.models.clap.weights import rules
from mlx_mm.models.contracts import Modality
from mlx_mm.models.one_tower import AUDIO_PROMPT, AudioModel, TextModel
from mlx_mm.models.weights import AUDIO_PARTS, TEXT_PARTS, Towers


class Projection(nn.Module):
    """From a tower's vector to the shared space."""

    def __init__(self, dims: int, config: ProjectionConfig):
        super().__init__()
        self.linear1 = nn.Linear(dims, config.projection_dim)
        self.linear2 = nn.Linear(config.projection_dim, config.projection_dim)
        self._activation = activation(config.projection_hidden_act)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, D) -> (B, projection_dim)."""
        return linear(self.linear2, linear(self.linear1, x, activation=self._activation))


class TextAndAudio(nn.Module):
    """Both towers with their projections and two scales."""

    kind: Literal["encoder"] = "encoder"
    modalities: tuple[Modality, ...] = ("text", "audio")
    towers: ClassVar[Towers] = {"text": TEXT_PARTS, "audio": AUDIO_PARTS}
    prompt_template = AUDIO_PROMPT

    def __init__(self, config: ModelConfig, text: TextConfig, audio: AudioConfig, projection: ProjectionConfig):
        super().__init__()
        self.config = config
        self.sanitize, self.restore, self.quant_predicate, self.cast_predicate, self.padded_axes = rules(config)
        self.text_model, self.text_projection = TextTower(text), Projection(text.hidden_size, projection)
        self.audio_model, self.audio_projection = AudioTower(audio), Projection(audio.hidden_size, projection)
        self.logit_scale_a, self.logit_scale_t = mx.zeros(()), mx.zeros(())

    def __call__(
        self,
        input_ids: mx.array | None = None,
        input_features: mx.array | None = None,
        is_longer: mx.array | None = None,
        attention_mask: mx.array | None = None,
        position_ids: mx.array | None = None,
        *,
        return_loss: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> AudioTextOutput:
        """Texts (B, L), spectrograms (B, 1 or 4, T, F), or both -> AudioTextOutput.

        text_embeds and audio_embeds are what get_text_features and get_audio_features give; the towers' outputs are
        theirs, not projected. return_loss: the n-th text belongs to the n-th sound. Raises InputError without any
        input, or without pairs for a loss, and what the towers raise.
        """
        check_inputs(input_ids, input_features, "input_features")
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        text = audio = text_embeds = audio_embeds = None
        if input_ids is not None:
            text = self.text_model(input_ids, attention_mask, position_ids, **extras)
            text_embeds = _embed(text, self.text_projection)
        if input_features is not None:
            audio = self.audio_model(input_features, is_longer, **extras)
            audio_embeds = _embed(audio, self.audio_projection)
        if return_loss:
            check_pairs(text_embeds, audio_embeds, "audio")
        loss = per_audio = per_text = None
        if text_embeds is not None and audio_embeds is not None:
            per_audio = _logits(audio_embeds, text_embeds, self.logit_scale_a)
            per_text = _logits(text_embeds, audio_embeds, self.logit_scale_t)
            loss = (own_column_loss(per_text) + own_column_loss(per_audio.T)) / 2 if return_loss else None
        return AudioTextOutput(loss, per_audio, per_text, text_embeds, audio_embeds, text, audio)

    def get_text_features(
        self, input_ids: mx.array, attention_mask: mx.array | None = None, position_ids: mx.array | None = None
    ) -> mx.array:
        """(B, L) -> (B, projection_dim), of unit length. attention_mask None: the padding is hidden."""
        return _embed(self.text_model(input_ids, attention_mask, position_ids), self.text_projection)

    def get_audio_features(self, input_features: mx.array, is_longer: mx.array | None = None) -> mx.array:
        """(B, 1 or 4, T, F) -> (B, projection_dim), of unit length. is_longer (B, 1): which clips were cut, for
        models with fusion."""
        return _embed(self.audio_model(input_features, is_longer), self.audio_projection)

    def score(self, items: mx.array, labels: mx.array) -> mx.array:
        """Probability that sound i is label j and no other, from unit vectors (N, D) and (M, D) -> (N, M)."""
        return mx.softmax(_logits(items, labels, self.logit_scale_a), axis=-1, precise=True)

    def modules_for(self, modality: Modality) -> tuple[nn.Module | None, ...]:
        """The modules that the features of a modality are computed with."""
        if modality == "text":
            return self.text_model, self.text_projection
        return self.audio_model, self.audio_projection


def _embed(output: TowerOutput, projection: Projection) -> mx.array:
    return unit_length(projection(pooled(output)))


def _logits(a: mx.array, b: mx.array, scale: mx.array) -> mx.array:
    """Cosines of unit vectors (N, D) and (M, D), times exp(scale) -> (N, M)."""
    return a @ b.T * mx.exp(scale)


AudioTextModel: TypeAlias = TextAndAudio | TextModel | AudioModel


def encoder(config: ModelConfig) -> AudioTextModel:
    """Both towers with their projections, or the one of the config, with or without it."""
    text, audio, projection = config.text_config, config.audio_config, config.projection
    if text is not None and audio is not None and projection is not None:
        return TextAndAudio(config, text, audio, projection)
    if text is not None:
        own = None if projection is None else Projection(text.hidden_size, projection)
        return TextModel(config, rules(config), TextTower(text), own)
    assert audio is not None  # `tower_sections` gives one at least
    own = None if projection is None else Projection(audio.hidden_size, projection)
    return AudioModel(config, rules(config), AudioTower(audio), own)


# `architectures` of config.json -> what builds it; "" where the file names none
ARCHITECTURES: dict[str, Callable[[ModelConfig], AudioTextModel]] = {
    "": encoder,
    "ClapModel": encoder,
    "ClapTextModel": encoder,
    "ClapTextModelWithProjection": encoder,
    "ClapAudioModel": encoder,
    "ClapAudioModelWithProjection": encoder,
}
