"""Names and layouts of tensors: Hugging Face's, of a file or of a live model of transformers 5, to ours.

Ours are those of MLX-community's files: experts lie one by one in a file of Hugging Face, and stacked here.
"""

import warnings

import mlx.core as mx

from mlx_mm.checkpoint.rows import Rows, whole
from mlx_mm.models.glm4v.config import ModelConfig

# How names begin in a file, without "model." -> ours
PREFIXES = (
    ("visual.", "vision_tower."),
    ("language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
# Kernels of convolutions, their axes in MLX's order
KERNELS = {"patch_embed.proj.weight": (0, 2, 3, 4, 1), "downsample.weight": (0, 2, 3, 1)}
BIASES = (".q_proj.bias", ".k_proj.bias", ".v_proj.bias")
DROPPED = ("rotary_emb.", "rotary_pos_emb.")  # tables that follow from the config
# Layers that are never quantised, and the one of them that computes in float32 whatever the model does
KEPT_EXACT = ("patch_embed.proj", "downsample", "position_embedding", "mlp.gate")
ROUTER = ".mlp.gate."
EXPERTS, STACKED = ".mlp.experts.", ".mlp.switch_mlp."

Tensors = dict[str, mx.array | Rows]


def sanitize_weights(config: ModelConfig, weights: dict[str, mx.array], *, has_head: bool) -> Tensors:
    """Tensors under our names and in our layout.

    Left out: a layer after the last, which predicts several tokens at once, a head that the model lacks or shares,
    biases that it lacks by its config, as in transformers, with a warning, and what follows from the config. A tensor
    of a shape that no layout fits stays as it is, for the strict match to name.
    """
    unbiased = config.moe is not None and not config.moe.attention_bias
    biases = 0
    extra = f"language_model.model.layers.{config.text_config.num_hidden_layers}."
    result: Tensors = {}
    experts: dict[str, dict[int, mx.array]] = {}
    for name, weight in weights.items():
        name = name.removeprefix("model.")
        name = next((own + name.removeprefix(theirs) for theirs, own in PREFIXES if name.startswith(theirs)), name)
        headless = config.tie_word_embeddings or not has_head
        surplus = name.startswith(extra) or (headless and name.startswith("language_model.lm_head."))
        if surplus or any(part in name for part in DROPPED):
            continue
        if unbiased and name.startswith("language_model.") and name.endswith(BIASES):
            biases += 1
            continue
        layer, found, rest = name.partition(EXPERTS)
        number, _, projection = rest.partition(".")
        if found and number.isdecimal():
            experts.setdefault(f"{layer}{STACKED}{projection}", {})[int(number)] = weight
        elif found:
            result |= _stacked_experts(f"{layer}{STACKED}", rest, weight)
        else:
            axes = next((axes for end, axes in KERNELS.items() if name.endswith(end)), None)
            result[name] = weight if axes is None or len(axes) != weight.ndim else weight.transpose(axes)
    for name, parts in experts.items():
        result |= _rows_of_experts(name, parts)
    if biases:
        warnings.warn(
            f"config.json says attention_bias false, and the weights have {biases} biases of attention; they are "
            "left out, as transformers leaves them out.",
            stacklevel=2,
        )
    return result


def restore_weights(weights: Tensors) -> Tensors:
    """The other way, under the names of a file."""
    result: Tensors = {}
    for name, weight in weights.items():
        name = next((theirs + name.removeprefix(own) for theirs, own in PREFIXES if name.startswith(own)), name)
        name = name if name.startswith("lm_head.") else f"model.{name}"
        axes = next((axes for end, axes in KERNELS.items() if name.endswith(end)), None)
        layer, stacked, projection = name.partition(STACKED)
        if stacked:
            experts = (
                weight.blocks if isinstance(weight, Rows) else tuple(weight[i : i + 1] for i in range(len(weight)))
            )
            result |= {f"{layer}{EXPERTS}{i}.{projection}": expert[0] for i, expert in enumerate(experts)}
        elif axes is not None:
            result[name] = whole(weight).transpose([axes.index(axis) for axis in range(len(axes))])
        else:
            result[name] = weight
    return result


def _rows_of_experts(name: str, parts: dict[int, mx.array]) -> Tensors:
    """The stack of experts, of which those of another shape or type than most stay alone."""
    kinds = [(parts[number].shape, parts[number].dtype) for number in sorted(parts)]
    usual = max(set(kinds), key=kinds.count)
    fitting = [parts[number] for number in sorted(parts) if (parts[number].shape, parts[number].dtype) == usual]
    result: Tensors = {name: Rows(tuple(part[None] for part in fitting))}
    for number, part in parts.items():
        if (part.shape, part.dtype) != usual:
            result[f"{name} of expert {number}"] = part
    return result


def _stacked_experts(prefix: str, name: str, weight: mx.array) -> Tensors:
    """A tensor (experts, out, in) of a live model, where the rows of gates and the others are one tensor."""
    if name != "gate_up_proj" or weight.ndim != 3 or weight.shape[1] % 2:
        return {f"{prefix}{name}.weight": weight}
    gate, up = mx.split(weight, 2, axis=1)
    return {f"{prefix}gate_proj.weight": gate, f"{prefix}up_proj.weight": up}


def is_quantizable(path: str) -> bool:
    """Kernels, the position table and the router stay as they are: they are small and weigh much."""
    return not path.endswith(KEPT_EXACT)


def fits_half_precision(path: str) -> bool:
    """Whether the weight at a path may be float16. The router's scores are close to each other, and decide."""
    return ROUTER not in f"{path}."
