"""Activation functions by the names that Hugging Face configs use."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from mlx_mm.backend import elementwise
from mlx_mm.errors import ConfigError

# `nn.GELU("precise")` is the tanh form: MLX's names are not those of the configs.
ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": elementwise.gelu_erf,
    "gelu_new": elementwise.gelu_tanh,  # transformers' NewGELUActivation writes out the same formula
    "gelu_pytorch_tanh": elementwise.gelu_tanh,
    "quick_gelu": elementwise.quick_gelu,
    "relu": elementwise.relu,
    "silu": elementwise.silu,
}


def activation(name: str) -> Callable[[mx.array], mx.array]:
    """The function that a config's `hidden_act` names; it keeps shape and dtype. Raises ConfigError."""
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"the config asks for the activation {name!r}; mlx_mm has {', '.join(ACTIVATIONS)}. "
            "Check hidden_act in config.json."
        )
    return ACTIVATIONS[name]
