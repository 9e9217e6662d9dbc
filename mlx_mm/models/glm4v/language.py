"""The language model of the GLM-4.xV line: a decoder, dense (9B) or with experts (106B).

The dense model has four norms per layer and turns neighbouring numbers, the one with experts has two norms and turns
halves. Only the first part of a head turns; each pair turns by a token's time, row or column.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import QuantizedKVCache
from mlx_lm.models.switch_layers import SwitchGLU

from mlx_mm.backend.elementwise import swiglu
from mlx_mm.backend.experts import experts, route
from mlx_mm.backend.linear import token_linear
from mlx_mm.backend.native.views import run
from mlx_mm.backend.norms import norm
from mlx_mm.backend.rotary import TextRotary
from mlx_mm.backend.tables import made_once
from mlx_mm.errors import InputError
from mlx_mm.generation.appending import append
from mlx_mm.generation.request import LayerCache
from mlx_mm.layers.attention import Mask, Rotation, attend, attention_weights, merge_heads, split_heads
from mlx_mm.layers.outputs import TowerOutput
from mlx_mm.layers.rope import inverse_frequencies, rotate_halves, rotate_neighbours
from mlx_mm.models.glm4v.config import ModelConfig, MoeConfig, TextConfig

NORM_EPS = 1e-20  # keeps a sum of router weights from being 0, as in DeepSeek-V3


class Attention(nn.Module):
    """Grouped heads; queries, keys and values may have biases, the output has none."""

    def __init__(self, config: TextConfig, bias: bool):
        super().__init__()
        dims, head_dim = config.hidden_size, config.head_dim
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(dims, self.num_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(dims, self.num_kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(dims, self.num_kv_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(self.num_heads * head_dim, dims, bias=False)

    def __call__(
        self, x: mx.array, rope: Rotation, mask: Mask, cache: LayerCache | None, output_attentions: bool
    ) -> tuple[mx.array, mx.array | None]:
        """(B, L, D) -> (B, L, D), and the weights (B, H, L, S) where asked for."""
        q = rope(split_heads(token_linear(self.q_proj, x), self.num_heads))
        k = rope(split_heads(token_linear(self.k_proj, x), self.num_kv_heads))
        v = split_heads(token_linear(self.v_proj, x), self.num_kv_heads)
        if cache is not None:
            k, v = append(cache, k, v)
        if isinstance(cache, QuantizedKVCache):
            if output_attentions:
                raise InputError("output_attentions does not work with a quantised cache; use one that is not.")
            out = scaled_dot_product_attention(q, k, v, cache, q.shape[-1] ** -0.5, mask)  # type: ignore[arg-type]
        else:
            out = attend(q, k, v, mask)
        weights = None
        if output_attentions:
            weights = attention_weights(q, mx.repeat(k, self.num_heads // self.num_kv_heads, axis=1), mask)
        return token_linear(self.o_proj, merge_heads(out)), weights


class FusedMLP(nn.Module):
    """down(silu(gate) · up), the first half of one matrix being the gate."""

    def __init__(self, dims: int, hidden: int):
        super().__init__()
        self.gate_up_proj = nn.Linear(dims, 2 * hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dims, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        both = token_linear(self.gate_up_proj, x)
        width = both.shape[-1] // 2
        return token_linear(self.down_proj, swiglu(both[..., :width], both[..., width:]))


class MLP(nn.Module):
    """down(silu(gate) · up)."""

    def __init__(self, dims: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(dims, hidden, bias=False)
        self.up_proj = nn.Linear(dims, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dims, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return token_linear(self.down_proj, swiglu(token_linear(self.gate_proj, x), token_linear(self.up_proj, x)))


class Router(nn.Module):
    """Chooses experts by biased scores and weighs them by unbiased ones (DeepSeek-V3, arXiv 2412.19437, 2.1.2)."""

    def __init__(self, config: MoeConfig, dims: int):
        super().__init__()
        self.weight = mx.zeros((config.n_routed_experts, dims))
        self.e_score_correction_bias = mx.zeros((config.n_routed_experts,))
        self._config = config

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """(B, L, D) -> chosen experts and their weights, both (B, L, k); float32 whatever the model's dtype."""
        config = self._config
        scores = mx.sigmoid(x.astype(mx.float32) @ self.weight.astype(mx.float32).T)
        biased = scores + self.e_score_correction_bias.astype(mx.float32)
        if config.topk_group < config.n_group:
            biased = self._best_groups(biased)
        chosen = mx.argpartition(-biased, kth=config.num_experts_per_tok - 1, axis=-1)
        chosen = chosen[..., : config.num_experts_per_tok]
        weights = mx.take_along_axis(scores, chosen, axis=-1)
        if config.norm_topk_prob:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + NORM_EPS)
        return chosen, weights * config.routed_scaling_factor

    def _best_groups(self, scores: mx.array) -> mx.array:
        """The scores (…, experts), minus infinity outside the groups whose two best add up to most."""
        config = self._config
        groups = mx.unflatten(scores, -1, (config.n_group, -1))
        totals = mx.topk(groups, min(2, groups.shape[-1]), axis=-1).sum(axis=-1)
        dropped = config.n_group - config.topk_group
        worst = mx.argpartition(totals, kth=dropped - 1, axis=-1)[..., :dropped, None]
        return mx.put_along_axis(groups, worst, mx.array(-mx.inf), axis=-2).flatten(-2)


class Experts(nn.Module):
    """A few of many small MLPs for each token, and one that all tokens share, neither weighed nor scaled."""

    def __init__(self, config: MoeConfig, dims: int):
        super().__init__()
        width = config.moe_intermediate_size
        self.gate = Router(config, dims)
        self.switch_mlp = SwitchGLU(dims, width, config.n_routed_experts, activation=_up_and_gate)
        self.shared_experts = MLP(dims, width * config.n_shared_experts)

    def __call__(self, x: mx.array) -> mx.array:
        chosen, weights = route(self.gate, x)
        return experts(self.switch_mlp, x, chosen, weights) + self.shared_experts(x)


def _up_and_gate(up: mx.array, gate: mx.array) -> mx.array:
    return swiglu(gate, up)


class Layer(nn.Module):
    """Attention and an MLP, each normed before; in the dense model, each normed after it too."""

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        text, moe = config.text_config, config.moe
        dims, eps = text.hidden_size, text.rms_norm_eps
        self.self_attn = Attention(text, bias=moe is None or moe.attention_bias)
        self.input_layernorm = nn.RMSNorm(dims, eps)
        self.post_attention_layernorm = nn.RMSNorm(dims, eps)  # despite its name the one before the MLP
        self.sandwich = moe is None
        self.mlp: nn.Module
        if moe is None:
            self.post_self_attn_layernorm = nn.RMSNorm(dims, eps)
            self.post_mlp_layernorm = nn.RMSNorm(dims, eps)
            self.mlp = FusedMLP(dims, text.intermediate_size)
        elif index < moe.first_k_dense_replace:
            self.mlp = MLP(dims, text.intermediate_size)
        else:
            self.mlp = Experts(moe, dims)

    def __call__(
        self, x: mx.array, rope: Rotation, mask: Mask, cache: LayerCache | None, output_attentions: bool
    ) -> tuple[mx.array, mx.array | None]:
        """(B, L, D) -> (B, L, D), and the attention's weights where asked for."""
        out, weights = self.self_attn(norm(self.input_layernorm, x), rope, mask, cache, output_attentions)
        x = norm(self.post_self_attn_layernorm, out, residual=x) if self.sandwich else x + out
        out = self.mlp(norm(self.post_attention_layernorm, x))
        return norm(self.post_mlp_layernorm, out, residual=x) if self.sandwich else x + out, weights


class Decoder(nn.Module):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        text = config.text_config
        self.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size)
        self.layers = [Layer(config, index) for index in range(text.num_hidden_layers)]
        self.norm = nn.RMSNorm(text.hidden_size, text.rms_norm_eps)

    def embed(self, input_ids: mx.array) -> mx.array:
        """(B, L) -> (B, L, D), in the dtype of the model: quantised in a mode other than affine, they are bfloat16."""
        return self.embed_tokens(input_ids).astype(self.norm.weight.dtype)

    def __call__(
        self,
        embeds: mx.array,
        rope: Rotation,
        mask: Mask = "causal",
        cache: Sequence[LayerCache] | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """(B, L, D) -> last_hidden_state (B, L, D). hidden_states: the embeddings, then each layer's output, the last
        of them normed, as transformers has them for decoders."""
        caches: Sequence[LayerCache | None] = cache or [None] * len(self.layers)
        if not (output_hidden_states or output_attentions or any(isinstance(one, QuantizedKVCache) for one in caches)):
            return TowerOutput(run(self._last_state, embeds, rope, mask, caches), pooler_output=None)
        x, states = embeds, [embeds]
        attentions: list[mx.array | None] = []
        for layer, its_cache in zip(self.layers, caches, strict=True):
            x, weights = layer(x, rope, mask, its_cache, output_attentions)
            states.append(x)
            attentions.append(weights)
        x = norm(self.norm, x)
        return TowerOutput(
            last_hidden_state=x,
            pooler_output=None,
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
            attentions=tuple(a for a in attentions if a is not None) if output_attentions else None,
        )

    def _last_state(self, x: mx.array, rope: Rotation, mask: Mask, caches: Sequence[LayerCache | None]) -> mx.array:
        return norm(self.norm, pass_through(self.layers, x, rope, mask, caches))


def pass_through(
    layers: Sequence[Layer], x: mx.array, rope: Rotation, mask: Mask, caches: Sequence[LayerCache | None]
) -> mx.array:
    """(B, L, D) -> what the last of the layers gives, (B, L, D)."""
    for layer, its_cache in zip(layers, caches, strict=True):
        x, _ = layer(x, rope, mask, its_cache, False)
    return x


class LanguageModel(nn.Module):
    """The decoder, and the head that gives logits, if it has one.

    Two ways to turn the heads: `rotation(position_ids)` for any positions, `rotation_from(offset)` for those of text,
    one kernel.
    """

    def __init__(self, config: ModelConfig, has_head: bool):
        super().__init__()
        text = config.text_config
        self.model = Decoder(config)
        if has_head and not config.tie_word_embeddings:
            self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self._config = config

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Those of the decoder."""
        return self.model.layers

    def embed(self, input_ids: mx.array) -> mx.array:
        """(B, L) -> (B, L, D)."""
        return self.model.embed(input_ids)

    def rotation(self, position_ids: mx.array, dtype: mx.Dtype = mx.float32) -> Rotation:
        """Turns (B, H, L, d) of `dtype` by positions (3, B, L): time, row and column."""
        return rotation(self._config, position_ids, dtype)

    def rotation_from(self, offset: mx.array | int) -> Rotation:
        """Turns (B, H, L, d) by offset, offset + 1, …, the same on all axes; offset is a number or (B,)."""
        return rotation_from(self._config, offset)

    def logits(self, hidden: mx.array) -> mx.array:
        """(…, D) -> (…, vocabulary)."""
        if "lm_head" in self:
            return token_linear(self.lm_head, hidden)
        return self.model.embed_tokens.as_linear(hidden)


def rotation(config: ModelConfig, position_ids: mx.array, dtype: mx.Dtype) -> Rotation:
    """What turns (B, H, L, d) of `dtype` by positions (3, B, L)."""
    sections = config.rope.mrope_section
    frequencies = mx.split(inverse_frequencies(2 * sum(sections), config.rope.rope_theta), _bounds(sections))
    parts = [axis[..., None] * some for axis, some in zip(position_ids, frequencies, strict=True)]
    angles = mx.concatenate(parts, axis=-1)[:, None]  # (B, 1, L, pairs); an axis has a contiguous section of them
    rotate = rotate_neighbours if config.moe is None else rotate_halves
    return rotate(angles, dtype)


def rotation_from(config: ModelConfig, offset: mx.array | int) -> Rotation:
    """What turns (B, H, L, d) by offset, offset + 1, …, the same on all axes; offset is a number or (B,)."""
    dims, theta = 2 * sum(config.rope.mrope_section), config.rope.rope_theta
    frequencies = inverse_frequencies(dims, theta)
    return TextRotary(offset, frequencies, _wavelengths(dims, theta), neighbours=config.moe is None)


@made_once(8)
def _wavelengths(dims: int, theta: float) -> mx.array:
    return 1 / inverse_frequencies(dims, theta)


def _bounds(sections: Sequence[int]) -> list[int]:
    return [sum(sections[: i + 1]) for i in range(len(sections) - 1)]
