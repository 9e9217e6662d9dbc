"""SigLIP and SigLIP 2 in plain NumPy float64, written from the published rules, to test the tests.

Every function takes `wrong`, a set of known mistakes to make. The golden test checks that the right reading meets
the tolerance and that each mistake misses it, so a port with such a mistake cannot pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]
Wrong = frozenset[str]
NOTHING: Wrong = frozenset()
_erf = np.vectorize(math.erf)


def gelu(x: np.ndarray, wrong: Wrong = NOTHING) -> np.ndarray:
    if "erf_gelu" in wrong:
        return 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    if "quick_gelu" in wrong:
        return x / (1 + np.exp(-1.702 * x))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(w: Weights, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def split(x: np.ndarray, heads: int) -> np.ndarray:
    """(B, L, D) -> (B, H, L, D/H)."""
    b, n, d = x.shape
    return x.reshape(b, n, heads, d // heads).transpose(0, 2, 1, 3)


def merge(x: np.ndarray) -> np.ndarray:
    b, h, n, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b, n, h * d)


def weigh(q: np.ndarray, k: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Attention weights; `bias` is added to the scores, broadcast over heads and queries."""
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    return softmax(scores if bias is None else scores + bias)


def mask_bias(mask: np.ndarray | None, wrong: Wrong = NOTHING) -> np.ndarray | None:
    """(B, S) of ones and zeros -> (B, 1, 1, S) to add to the scores."""
    if mask is None or "no_mask" in wrong:
        return None
    mask = mask[:, None, None, :]
    return mask.astype(float) if "mask_added_as_bias" in wrong else np.where(mask > 0, 0.0, -1e30)


def encoder(
    w: Weights, prefix: str, config: dict[str, Any], x: np.ndarray, bias: np.ndarray | None, wrong: Wrong
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    eps = 1e-5 if "eps_1e-5" in wrong else config.get("layer_norm_eps", 1e-6)
    heads = config["num_attention_heads"]
    states, attentions = [x], []
    for i in range(config["num_hidden_layers"]):
        layer = f"{prefix}.encoder.layers.{i}"
        h = layer_norm(w, f"{layer}.layer_norm1", x, eps)
        q, k, v = (split(linear(w, f"{layer}.self_attn.{n}_proj", h), heads) for n in "qkv")
        a = weigh(q, k, bias)
        x = x + linear(w, f"{layer}.self_attn.out_proj", merge(a @ v))
        h = layer_norm(w, f"{layer}.layer_norm2", x, eps)
        x = x + linear(w, f"{layer}.mlp.fc2", gelu(linear(w, f"{layer}.mlp.fc1", h), wrong))
        states.append(x)
        attentions.append(a)
    return states, attentions


def text_tower(
    w: Weights, config: dict[str, Any], ids: np.ndarray, mask: np.ndarray | None = None, wrong: Wrong = NOTHING
) -> dict[str, Any]:
    config = config["text_config"]
    table = w["text_model.embeddings.position_embedding.weight"]
    x = w["text_model.embeddings.token_embedding.weight"][ids] + table[: ids.shape[1]]
    bias = mask_bias(mask, wrong)
    if "causal_text" in wrong:
        bias = np.triu(np.full((ids.shape[1],) * 2, -1e30), 1)
    states, attentions = encoder(w, "text_model", config, x, bias, wrong)
    last = layer_norm(w, "text_model.final_layer_norm", states[-1], config.get("layer_norm_eps", 1e-6))
    row = np.arange(len(ids))
    if "pool_first" in wrong:
        pooled = last[:, 0]
    elif "pool_at_eos" in wrong:
        pooled = last[row, (ids == 1).argmax(1)]
    else:
        pooled = last[:, -1]
    head = w["text_model.head.weight"]
    pooled = pooled @ head.T + (0 if "no_text_head_bias" in wrong else w["text_model.head.bias"])
    return {"last_hidden_state": last, "pooler_output": pooled, "hidden_states": states, "attentions": attentions}


def bilinear(n_in: int, n_out: int, wrong: Wrong = NOTHING) -> np.ndarray:
    """(n_out, n_in) matrix of bilinear resizing with antialias."""
    out = np.zeros((n_out, n_in))
    ratio = n_in / n_out
    support = 1.0 if "no_antialias" in wrong else max(ratio, 1.0)
    for i in range(n_out):
        centre = ratio * (i + 0.5)
        if "align_corners" in wrong:
            centre = (i * (n_in - 1) / (n_out - 1) if n_out > 1 else 0) + 0.5
        weights = np.maximum(0, 1 - np.abs(np.arange(n_in) + 0.5 - centre) / support)
        out[i] = weights / weights.sum()
    return out


def bicubic(n_in: int, n_out: int, wrong: Wrong = NOTHING) -> np.ndarray:
    """(n_out, n_in) matrix of bicubic resizing, no antialias, taps clamped to the border."""
    a = -0.5 if "bicubic_a_half" in wrong else -0.75
    out = np.zeros((n_out, n_in))
    for i in range(n_out):
        x = (i + 0.5) * n_in / n_out - 0.5
        if "align_corners" in wrong:
            x = i * (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
        for tap in range(math.floor(x) - 1, math.floor(x) + 3):
            z = abs(x - tap)
            near = ((a + 2) * z - (a + 3)) * z * z + 1
            far = ((a * z - 5 * a) * z + 8 * a) * z - 4 * a
            if "zero_border" in wrong and not 0 <= tap < n_in:
                continue
            out[i, min(max(tap, 0), n_in - 1)] += near if z <= 1 else far if z < 2 else 0.0
    return out


def resize(
    table: np.ndarray, rows: int, cols: int, rule: Callable[..., np.ndarray], wrong: Wrong = NOTHING
) -> np.ndarray:
    """(s, s, D) -> (rows·cols, D), row-major."""
    if "swapped_axes" in wrong:
        table = table.swapaxes(0, 1)
    side = table.shape[0]
    out = np.einsum("ri,ijd,cj->rcd", rule(side, rows, wrong), table, rule(side, cols, wrong))
    return out.reshape(rows * cols, -1)


def patch_embeddings(w: Weights, pixels: np.ndarray, p: int, wrong: Wrong) -> np.ndarray:
    """FixRes: NHWC pixels -> (B, n, D); NaFlex: patches (B, P, p·p·3) -> (B, P, D)."""
    name = "vision_model.embeddings.patch_embedding"
    kernel = w[f"{name}.weight"]
    if pixels.ndim == 4:
        b, height, width, _ = pixels.shape
        rows, cols = height // p, width // p
        cut = pixels[:, : rows * p, : cols * p].reshape(b, rows, p, cols, p, 3)
        pixels = cut.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * cols, p * p * 3)
        kernel = kernel if "channel_first_patches" in wrong else kernel.transpose(0, 2, 3, 1)
        kernel = kernel.reshape(len(kernel), -1)
    elif "channel_first_patches" in wrong:
        kernel = kernel.reshape(-1, 3, p, p).transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    return pixels @ kernel.T + (0 if "no_patch_bias" in wrong else w[f"{name}.bias"])


def naflex_positions(table: np.ndarray, spatial: np.ndarray, slots: int, wrong: Wrong = NOTHING) -> np.ndarray:
    """(N, D) table -> (B, slots, D); slots past rows·cols hold the first vector."""
    side = math.isqrt(len(table))
    grid = table.reshape(side, side, -1)
    out = []
    for rows, cols in spatial:
        rule = bicubic if "bicubic_positions" in wrong else bilinear
        part = resize(grid, int(rows), int(cols), rule, wrong)
        out.append(np.concatenate([part, np.repeat(part[:1], slots - len(part), 0)]))
    return np.stack(out)


def vision_tower(
    w: Weights,
    config: dict[str, Any],
    pixels: np.ndarray,
    mask: np.ndarray | None = None,
    spatial: np.ndarray | None = None,
    interpolate: bool = False,
    wrong: Wrong = NOTHING,
) -> dict[str, Any]:
    config = config["vision_config"]
    p, eps = config["patch_size"], config.get("layer_norm_eps", 1e-6)
    table = w["vision_model.embeddings.position_embedding.weight"]
    x = patch_embeddings(w, pixels, p, wrong)
    if spatial is not None:
        positions = naflex_positions(table, spatial, x.shape[1], wrong)
    elif interpolate:
        side = math.isqrt(len(table))
        rows, cols = pixels.shape[1] // p, pixels.shape[2] // p
        positions = resize(table.reshape(side, side, -1), rows, cols, bicubic, wrong)
    else:
        positions = table
    x = x + positions
    states, attentions = encoder(w, "vision_model", config, x, mask_bias(mask, wrong), wrong)
    last = layer_norm(w, "vision_model.post_layernorm", states[-1], eps)
    bias = None if "no_head_mask" in wrong else mask_bias(mask, wrong)
    pooled = pooling_head(w, config, states[-1] if "no_post_layernorm" in wrong else last, bias, eps, wrong)
    return {"last_hidden_state": last, "pooler_output": pooled, "hidden_states": states, "attentions": attentions}


def pooling_head(
    w: Weights, config: dict[str, Any], x: np.ndarray, bias: np.ndarray | None, eps: float, wrong: Wrong
) -> np.ndarray:
    """(B, n, D) -> (B, D)."""
    head = "vision_model.head"
    probe = np.broadcast_to(w[f"{head}.probe"], (len(x), 1, x.shape[-1]))
    matrices = np.split(w[f"{head}.attention.in_proj_weight"], 3)
    biases = np.split(w[f"{head}.attention.in_proj_bias"], 3)
    if "in_proj_order_kqv" in wrong:
        matrices, biases = [matrices[i] for i in (1, 0, 2)], [biases[i] for i in (1, 0, 2)]
    inputs = (probe, x, x)
    q, k, v = (
        split(s @ m.T + b, config["num_attention_heads"]) for s, m, b in zip(inputs, matrices, biases, strict=True)
    )
    a = linear(w, f"{head}.attention.out_proj", merge(weigh(q, k, bias) @ v))
    h = layer_norm(w, f"{head}.layernorm", a, eps)
    h = linear(w, f"{head}.mlp.fc2", gelu(linear(w, f"{head}.mlp.fc1", h), wrong))
    return ((probe if "probe_residual" in wrong else a) + h)[:, 0]


def joint(w: Weights, text: np.ndarray, image: np.ndarray, wrong: Wrong = NOTHING) -> dict[str, Any]:
    """Pooled vectors of both towers -> embeddings, logits, loss."""
    t = text / np.linalg.norm(text, axis=-1, keepdims=True)
    v = image / np.linalg.norm(image, axis=-1, keepdims=True)
    scale = w["logit_scale"] if "scale_not_exponentiated" in wrong else np.exp(w["logit_scale"])
    logits = t @ v.T * scale + (0 if "no_logit_bias" in wrong else w["logit_bias"])
    out = {"text_embeds": t, "image_embeds": v, "logits_per_text": logits, "logits_per_image": logits.T}
    if len(text) != len(image):
        return out
    sign = 2 * np.eye(len(logits)) - 1
    losses = np.log1p(np.exp(-sign * logits))
    if "softmax_loss" in wrong:
        losses = -np.log(softmax(logits)) * np.eye(len(logits))
    return out | {"loss": losses.mean() if "loss_mean_of_all" in wrong else losses.sum(-1).mean()}


def classify(w: Weights, vision: dict[str, Any], mask: np.ndarray | None = None, wrong: Wrong = NOTHING) -> np.ndarray:
    """Logits of `…ForImageClassification`: mean over the (real) tokens, then the classifier."""
    tokens = vision["last_hidden_state"]
    if "classifier_on_pooled" in wrong:
        return linear(w, "classifier", vision["pooler_output"])
    if mask is None or "unmasked_mean" in wrong:
        return linear(w, "classifier", tokens.mean(1))
    return linear(w, "classifier", (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(softmax(logits))[np.arange(len(labels)), labels].mean())
