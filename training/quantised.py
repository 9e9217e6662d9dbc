"""Weights rounded as MLX's affine quantisation rounds them, for training with and measuring its effect."""

from contextlib import contextmanager

import torch


@contextmanager
def rounded_weights(model: torch.nn.Module):
    """Run the forward pass on 4-bit weights while gradients reach the full ones (straight-through)."""
    originals = []
    for module in model.modules():
        for name in ("weight", "in_proj_weight"):
            weight = getattr(module, name, None)
            if isinstance(weight, torch.nn.Parameter) and is_quantised(module, name):
                originals.append((module, name, weight))
                rounded = weight + (rounded_to_bits(weight.detach(), 4) - weight.detach())
                del module._parameters[name]
                setattr(module, name, rounded)
    try:
        yield
    finally:
        for module, name, weight in originals:
            delattr(module, name)
            module.register_parameter(name, weight)


def is_quantised(module: torch.nn.Module, name: str) -> bool:
    if isinstance(module, torch.nn.Embedding):
        return module.num_embeddings > 64  # the position tables stay in float
    return name == "in_proj_weight" or isinstance(module, torch.nn.Linear)


def rounded_to_bits(weight: torch.Tensor, bits: int, group: int = 64) -> torch.Tensor:
    """Affine rounding as MLX does it: the end of larger magnitude and zero are both exactly representable."""
    levels = 2**bits - 1
    groups = weight.reshape(-1, group)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    from_low = low.abs() > high.abs()
    scale = ((high - low) / levels).clamp(min=1e-7)
    scale = torch.where(from_low, scale, -scale)
    edge = torch.where(from_low, low, high)
    steps = (edge / scale).round()
    scale = torch.where(steps != 0, edge / steps, scale)
    offset = torch.where(steps != 0, edge, torch.zeros_like(edge))
    codes = ((groups - offset) / scale).round().clamp(0, levels)
    return (codes * scale + offset).reshape(weight.shape)
