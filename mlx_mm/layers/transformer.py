"""The transformer encoder of the CLIP kind, with Hugging Face CLIP's tensor names."""

from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.linear import linear
from mlx_mm.backend.native.views import run
from mlx_mm.backend.norms import norm
from mlx_mm.layers.activations import activation
from mlx_mm.layers.attention import Attention, Mask, Rotation
from mlx_mm.layers.outputs import TowerOutput


class MLP(nn.Module):
    """fc2(act(fc1(x))), (B, L, D) -> (B, L, D), plus the residual."""

    def __init__(self, dims: int, hidden_dims: int, hidden_act: str):
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, dims)
        self._activation = activation(hidden_act)

    def __call__(self, x: mx.array, residual: mx.array | None = None) -> mx.array:
        return linear(self.fc2, linear(self.fc1, x, activation=self._activation), residual=residual)


class EncoderSizes(Protocol):
    """Whatever has Hugging Face's keys of an encoder, such as a family's TextConfig."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def hidden_act(self) -> str: ...
    @property
    def layer_norm_eps(self) -> float: ...


class EncoderLayer(nn.Module):
    """Attention and MLP, each with a residual; norms before them (`norm_first`) or after the sums."""

    def __init__(self, sizes: EncoderSizes, norm_first: bool = True):
        super().__init__()
        dims, eps = sizes.hidden_size, sizes.layer_norm_eps
        self.self_attn = Attention(dims, sizes.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(dims, eps=eps)
        self.mlp = MLP(dims, sizes.intermediate_size, sizes.hidden_act)
        self.layer_norm2 = nn.LayerNorm(dims, eps=eps)
        self.norm_first = norm_first

    def __call__(self, x: mx.array, mask: Mask = None, rope: Rotation | None = None) -> mx.array:
        """(B, L, D) -> (B, L, D)."""
        if self.norm_first:
            x = self.self_attn(norm(self.layer_norm1, x), mask, rope, residual=x)
            return self.mlp(norm(self.layer_norm2, x), residual=x)
        x = norm(self.layer_norm1, self.self_attn(x, mask, rope, residual=x))
        return norm(self.layer_norm2, self.mlp(x, residual=x))

    def attention_weights(self, x: mx.array, mask: Mask = None, rope: Rotation | None = None) -> mx.array:
        """The softmax weights of this layer for its input x (B, L, D) -> (B, H, L, L)."""
        return self.self_attn.weights(self.layer_norm1(x) if self.norm_first else x, mask, rope)


class Encoder(nn.Module):
    """A stack of layers without a final norm."""

    def __init__(self, sizes: EncoderSizes, norm_first: bool = True):
        super().__init__()
        self.layers = [EncoderLayer(sizes, norm_first) for _ in range(sizes.num_hidden_layers)]

    def __call__(
        self,
        x: mx.array,
        mask: Mask = None,
        rope: Rotation | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """x (B, L, D); `last_hidden_state` is the raw output of the last layer, nothing is pooled."""
        if not (output_hidden_states or output_attentions):
            return TowerOutput(run(self._last_state, x, mask, rope), pooler_output=None)
        hidden_states, attentions = [x], []
        for layer in self.layers:
            if output_attentions:
                attentions.append(layer.attention_weights(x, mask, rope))
            x = layer(x, mask, rope)
            if output_hidden_states:
                hidden_states.append(x)
        return TowerOutput(
            last_hidden_state=x,
            pooler_output=None,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _last_state(self, x: mx.array, mask: Mask, rope: Rotation | None) -> mx.array:
        for layer in self.layers:
            x = layer(x, mask, rope)
        return x
