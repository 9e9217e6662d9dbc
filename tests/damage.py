"""Ways to spoil a checkpoint folder, each with the error it must give. Used for `load` and for `convert`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tiny import write_json

from mlx_mm.errors import ConfigError, MlxMmError, ModelNotFoundError, UnsupportedModelError, WeightsError

Q_BIAS = "vision_model.encoder.layers.1.self_attn.q_proj.bias"
FC1 = "text_model.encoder.layers.0.mlp.fc1.weight"


@dataclass(frozen=True)
class Damage:
    """spoil(folder) breaks a good checkpoint; then `error` must name every one of `words`."""

    spoil: Callable[[Path], None]
    error: type[MlxMmError]
    words: tuple[str, ...]


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        change(config)
        write_json(folder / "config.json", config)

    return spoil


def edit_weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = {name: array.copy() for name, array in load_file(folder / "model.safetensors").items()}
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def edit_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text, "utf-8") and None


def index(value: Any) -> Callable[[Path], None]:
    """An index counts where there is no single file."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        write_json(folder / "model.safetensors.index.json", value)

    return spoil


def put(weights: dict[str, np.ndarray], name: str, value: float) -> None:
    weights[name].flat[-1] = value


def rename(weights: dict[str, np.ndarray], old: str, new: str) -> None:
    weights[new] = weights.pop(old)


DAMAGE = {
    "no config.json": Damage(remove("config.json"), ModelNotFoundError, ("config.json",)),
    "config.json is not JSON": Damage(write("config.json", "{"), ConfigError, ("config.json",)),
    "config.json is a list": Damage(write("config.json", "[]"), ConfigError, ("config.json",)),
    "config.json is not text": Damage(
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00") and None, ConfigError, ("config.json",)
    ),
    "no model_type": Damage(edit_config(lambda c: c.pop("model_type")), ConfigError, ("model_type",)),
    "unknown model_type": Damage(
        edit_config(lambda c: c.update(model_type="bert")), UnsupportedModelError, ("bert", "siglip", "siglip2")
    ),
    "model_type is a number": Damage(
        edit_config(lambda c: c.update(model_type=3)), UnsupportedModelError, ("3", "siglip")
    ),
    "unknown architecture": Damage(
        edit_config(lambda c: c.update(architectures=["SiglipForCausalLM"])),
        UnsupportedModelError,
        ("SiglipForCausalLM", "SiglipModel"),
    ),
    "no vision_config": Damage(edit_config(lambda c: c.pop("vision_config")), ConfigError, ("vision_config",)),
    "no text_config": Damage(edit_config(lambda c: c.update(text_config=None)), ConfigError, ("text_config",)),
    "unknown hidden_act": Damage(
        edit_config(lambda c: c["text_config"].update(hidden_act="swoosh")), ConfigError, ("swoosh", "gelu")
    ),
    "hidden_act is a number": Damage(
        edit_config(lambda c: c["vision_config"].update(hidden_act=7)), ConfigError, ("hidden_act",)
    ),
    "hidden_act is a list": Damage(
        edit_config(lambda c: c["vision_config"].update(hidden_act=["gelu"])), ConfigError, ("hidden_act",)
    ),
    "projection_size is text": Damage(
        edit_config(lambda c: c["text_config"].update(projection_size="128")), ConfigError, ("projection_size",)
    ),
    "epsilon is null": Damage(
        edit_config(lambda c: c["text_config"].update(layer_norm_eps=None)), ConfigError, ("layer_norm_eps",)
    ),
    "vision_use_head is text": Damage(
        edit_config(lambda c: c["vision_config"].update(vision_use_head="no")), ConfigError, ("vision_use_head",)
    ),
    "model_type is a list": Damage(
        edit_config(lambda c: c.update(model_type=["siglip"])), UnsupportedModelError, ("siglip",)
    ),
    "architectures is a number": Damage(
        edit_config(lambda c: c.update(architectures=[7])), UnsupportedModelError, ("7", "SiglipModel")
    ),
    "num_labels is text": Damage(edit_config(lambda c: c.update(num_labels="2")), ConfigError, ("num_labels",)),
    "heads do not divide": Damage(
        edit_config(lambda c: c["vision_config"].update(num_attention_heads=5)), ConfigError, ("5", "128")
    ),
    "negative size": Damage(
        edit_config(lambda c: c["text_config"].update(hidden_size=-64)), ConfigError, ("hidden_size", "-64")
    ),
    "size is text": Damage(
        edit_config(lambda c: c["text_config"].update(num_hidden_layers="2")), ConfigError, ("num_hidden_layers",)
    ),
    "size is null": Damage(
        edit_config(lambda c: c["vision_config"].update(patch_size=None)), ConfigError, ("patch_size",)
    ),
    "id2label has a gap": Damage(
        edit_config(lambda c: c.update(id2label={"0": "a", "2": "b"})), ConfigError, ("id2label",)
    ),
    "no weights": Damage(remove("model.safetensors"), WeightsError, ("model.safetensors",)),
    "only a pickle": Damage(
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin") and None,
        WeightsError,
        ("safetensors",),
    ),
    "missing tensor": Damage(edit_weights(lambda w: w.pop(Q_BIAS)), WeightsError, ("1 missing", Q_BIAS)),
    "renamed tensor": Damage(
        edit_weights(lambda w: rename(w, Q_BIAS, "vision_model.strange")),
        WeightsError,
        ("1 missing", Q_BIAS, "1 unexpected", "vision_model.strange"),
    ),
    "misshapen tensor": Damage(
        edit_weights(lambda w: w.update({FC1: w[FC1][:, :-1].copy()})),
        WeightsError,
        ("1 misshapen", FC1, "63", "64"),
    ),
    "misshapen scalar": Damage(
        edit_weights(lambda w: w.update(logit_scale=np.ones((2,), np.float32))),
        WeightsError,
        ("1 misshapen", "logit_scale"),
    ),
    "misshapen packed projection": Damage(
        edit_weights(lambda w: w.update({"vision_model.head.attention.in_proj_bias": np.ones(5, np.float32)})),
        WeightsError,
        ("vision_model.head.attention",),
    ),
    "NaN": Damage(edit_weights(lambda w: put(w, FC1, np.nan)), WeightsError, ("NaN", FC1)),
    "infinity": Damage(edit_weights(lambda w: put(w, Q_BIAS, np.inf)), WeightsError, (Q_BIAS,)),
    "cut short": Damage(edit_bytes(lambda b: b[: len(b) // 2]), WeightsError, ("model.safetensors",)),
    "one byte short": Damage(edit_bytes(lambda b: b[:-1]), WeightsError, ("model.safetensors",)),
    "header cut short": Damage(edit_bytes(lambda b: b[:100]), WeightsError, ("model.safetensors",)),
    "empty file": Damage(edit_bytes(lambda b: b""), WeightsError, ("model.safetensors",)),
    "not safetensors": Damage(edit_bytes(lambda b: b"PK\x03\x04" * 99), WeightsError, ("model.safetensors",)),
    "index without its shard": Damage(
        index({"weight_map": {"logit_scale": "model-00001-of-00002.safetensors"}}),
        WeightsError,
        ("model-00001-of-00002.safetensors",),
    ),
    "index is not an index": Damage(index([1, 2]), WeightsError, ("model.safetensors.index.json",)),
    "index leaves the folder": Damage(
        index({"weight_map": {"logit_scale": "../model.safetensors"}}), WeightsError, ("../model.safetensors",)
    ),
    "empty index": Damage(index({"weight_map": {}}), WeightsError, ("weight_map",)),
    "quantisation without scales": Damage(
        edit_config(lambda c: c.update(quantization={"bits": 4, "group_size": 64, "mode": "affine"})),
        WeightsError,
        (),
    ),
}


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` with the bytes of files: what must not change."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
