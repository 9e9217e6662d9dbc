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

from dataclasses import replace
from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.errors import InputError
from mlx_mm.layers.activations import activation
from mlx_mm.layers.embeddings import kernel_matrix
from mlx_mm.layers.losses import own_column_loss
from mlx_mm.layers.outputs import AudioTextOutput, TowerOutput, pooled
from mlx_mm.layers.similarity import unit_length
from mlx_mm.models.clap.audio import LONG_KERNEL, AudioTower
from mlx_mm.models.clap.config import AudioConfig, ModelConfig, ProjectionConfig, TextConfig
from mlx_mm.models.clap.text import TextTower
from mlx_mm.models.contracts import Modality
from mlx_mm.models.modalities import present, require_tower
from mlx_mm.models.weights import complete_names

PARTS = {"text": ("text_model.", "text_projection."), "audio": ("audio_model.", "audio_projection.")}
SCALES = ("logit_scale_a", "logit_scale_t")
# Buffers that follow from the config, or count training steps; which of them a file has depends on its age
DROPPED = ("relative_position_index", "num_batches_tracked", "position_ids", "token_type_ids")
# transformers' names -> ours, in this order: attention.output holds "output" too
RENAMES = (
    ("audio_model.audio_encoder.", "audio_model."),
    ("text_model.encoder.layer.", "text_model.encoder.layers."),
    (".embeddings.word_embeddings.", ".embeddings.token_embedding."),
    (".embeddings.position_embeddings.", ".embeddings.position_embedding."),
    (".embeddings.token_type_embeddings.", ".embeddings.token_type_embedding."),
    (".embeddings.LayerNorm.", ".embeddings.layer_norm."),
    (".pooler.dense.", ".pooler."),
    (".attention.self.query.", ".self_attn.q_proj."),
    (".attention.self.key.", ".self_attn.k_proj."),
    (".attention.self.value.", ".self_attn.v_proj."),
    (".attention.self.relative_position_bias_table", ".self_attn.relative_position_bias_table"),
    (".attention.output.dense.", ".self_attn.out_proj."),
    (".attention.output.LayerNorm.", ".layer_norm1."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
    (".output.LayerNorm.", ".layer_norm2."),
    (".layernorm_before.", ".layer_norm1."),
    (".layernorm_after.", ".layer_norm2."),
    # Places in a list of modules; global_att has its pooling in the first
    (".local_att.0.", ".local_att.conv1."),
    (".local_att.1.", ".local_att.norm1."),
    (".local_att.3.", ".local_att.conv2."),
    (".local_att.4.", ".local_att.norm2."),
    (".global_att.1.", ".global_att.conv1."),
    (".global_att.2.", ".global_att.norm1."),
    (".global_att.4.", ".global_att.conv2."),
    (".global_att.5.", ".global_att.norm2."),
)
PADDED_AXES = {".mlp.fc1.weight": 0, ".mlp.fc1.bias": 0, ".mlp.fc2.weight": 1}
KEPT_EXACT = (".position_embedding", ".token_type_embedding")


class Projection(nn.Module):
    """From a tower's vector to the shared space."""

    def __init__(self, dims: int, config: ProjectionConfig):
        super().__init__()
        self.linear1 = nn.Linear(dims, config.projection_dim)
        self.linear2 = nn.Linear(config.projection_dim, config.projection_dim)
        self._activation = activation(config.projection_hidden_act)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, D) -> (B, projection_dim)."""
        return self.linear2(self._activation(self.linear1(x)))


class Model(nn.Module):
    """Both towers with their projections and two scales, or one tower with or without its projection."""

    kind: Literal["encoder"] = "encoder"
    prompt_template = "This is a sound of {}."  # transformers' zero-shot pipeline
    towers = PARTS
    padded_axes = PADDED_AXES

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        text, audio = config.text_config, config.audio_config
        self.text_model = None if text is None else TextTower(text)
        self.audio_model = None if audio is None else AudioTower(audio)
        self.text_projection = _projection(text, config.projection)
        self.audio_projection = _projection(audio, config.projection)
        if text is not None and audio is not None:
            self.logit_scale_a, self.logit_scale_t = mx.zeros(()), mx.zeros(())

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Which of "text" and "audio" this checkpoint has a tower for."""
        return present(text=self.text_model, audio=self.audio_model)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Hugging Face's tensors under our names, convolutions as matrices over patches.

        One tower takes its own out of a joint checkpoint. A name that is not known stays, for the strict match to find.
        """
        towers = self.modalities
        weights = complete_names(weights, None if len(towers) == 2 else PARTS[towers[0]][0], (*_flat(PARTS), *SCALES))
        result = {}
        for name, weight in weights.items():
            if name.endswith(DROPPED) or name.startswith(self._unused()):
                continue
            for theirs, own in RENAMES:
                name = name.replace(theirs, own)
            result[name] = _as_matrix(name, weight) if weight.ndim == 4 else weight
        return result

    def quant_predicate(self, path: str, _module: nn.Module) -> bool:
        """Positions, token types and convolutions stay as they are: they are small and weigh much."""
        return not path.endswith(KEPT_EXACT) and ".patch_embed." not in path

    def cast_predicate(self, path: str) -> bool:
        """Both towers may be computed in float16; the scales lose accuracy in it."""
        return path not in SCALES

    def modules_for(self, modality: Modality) -> tuple[nn.Module | None, ...]:
        """The modules that the features of a modality are computed with."""
        if modality == "text":
            return self.text_model, self.text_projection
        return self.audio_model, self.audio_projection

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
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        text = audio = None
        if input_ids is not None:
            text = self._text_tower()(input_ids, attention_mask, position_ids, **extras)
        if input_features is not None:
            audio = self._audio_tower()(input_features, is_longer, **extras)
        return self._compare(text, audio, return_loss)

    def get_text_features(
        self, input_ids: mx.array, attention_mask: mx.array | None = None, position_ids: mx.array | None = None
    ) -> mx.array:
        """(B, L) -> (B, projection_dim), of unit length; of a tower alone neither normalised nor, without projection,
        projected. attention_mask None: the padding is hidden."""
        return self._embed(self._text_tower()(input_ids, attention_mask, position_ids), self.text_projection)

    def get_audio_features(self, input_features: mx.array, is_longer: mx.array | None = None) -> mx.array:
        """(B, 1 or 4, T, F) -> (B, projection_dim), of unit length; of a tower alone neither normalised nor, without
        projection, projected. is_longer (B, 1): which clips were cut, for models with fusion."""
        return self._embed(self._audio_tower()(input_features, is_longer), self.audio_projection)

    def score(self, items: mx.array, labels: mx.array) -> mx.array:
        """Probability that sound i is label j and no other, from unit vectors (N, D) and (M, D) -> (N, M)."""
        return mx.softmax(_logits(items, labels, self.logit_scale_a), axis=-1, precise=True)

    def _text_tower(self) -> TextTower:
        return require_tower(self.text_model, "text", "sounds")

    def _audio_tower(self) -> AudioTower:
        return require_tower(self.audio_model, "audio", "text")

    def _unused(self) -> tuple[str, ...]:
        """How the names of tensors start that a joint checkpoint has and this part of it has not."""
        if len(self.modalities) == 2:
            return ()
        parts = PARTS[self.modalities[0]]
        used = parts[:1] if self.config.projection is None else parts
        return tuple(part for part in _flat(PARTS) if part not in used) + SCALES

    def _embed(self, output: TowerOutput, projection: Projection | None) -> mx.array:
        vectors = pooled(output) if projection is None else projection(pooled(output))
        return unit_length(vectors) if len(self.modalities) == 2 else vectors

    def _compare(self, text: TowerOutput | None, audio: TowerOutput | None, return_loss: bool) -> AudioTextOutput:
        if text is None and audio is None:
            raise InputError("The model was called without input_ids and without input_features; give at least one.")
        t = None if text is None else self._embed(text, self.text_projection)
        a = None if audio is None else self._embed(audio, self.audio_projection)
        out = AudioTextOutput(text_embeds=t, audio_embeds=a, text_model_output=text, audio_model_output=audio)
        if return_loss and (t is None or a is None or len(t) != len(a)):
            found = "one kind only" if t is None or a is None else f"{len(t)} and {len(a)}"
            raise InputError(f"return_loss compares pairs: expected as many texts as sounds, found {found}.")
        if t is None or a is None:
            return out
        per_text, per_audio = _logits(t, a, self.logit_scale_t), _logits(a, t, self.logit_scale_a)
        loss = (own_column_loss(per_text) + own_column_loss(per_audio.T)) / 2 if return_loss else None
        return replace(out, loss=loss, logits_per_audio=per_audio, logits_per_text=per_text)


def _logits(a: mx.array, b: mx.array, scale: mx.array) -> mx.array:
    """Cosines of unit vectors (N, D) and (M, D), times exp(scale) -> (N, M)."""
    return a @ b.T * mx.exp(scale)


def _projection(tower: TextConfig | AudioConfig | None, config: ProjectionConfig | None) -> Projection | None:
    return None if tower is None or config is None else Projection(tower.hidden_size, config)


def _as_matrix(name: str, kernel: mx.array) -> mx.array:
    """A convolution (D, C, p, q) whose stride is its size, as a matrix (D, ·) over patches."""
    if name.endswith("mel_conv2d.weight"):  # over patches beside each other, so the columns are grouped by patch
        dims, channels, rows, cols = kernel.shape
        kernel = kernel.reshape(dims, channels, rows, LONG_KERNEL, cols // LONG_KERNEL)
        kernel = kernel.swapaxes(2, 3).reshape(dims, channels, -1, cols // LONG_KERNEL)
    return kernel_matrix(kernel)


def _flat(parts: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    return tuple(name for names in parts.values() for name in names)


# `architectures` of config.json -> class; "" where the file names none
ARCHITECTURES = {
    "": Model,
    "ClapModel": Model,
    "ClapTextModel": Model,
    "ClapTextModelWithProjection": Model,
    "ClapAudioModel": Model,
    "ClapAudioModelWithProjection": Model,
}
