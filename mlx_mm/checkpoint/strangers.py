"""Folders of other programs: the model that lies within one, or what such a folder is."""

from collections.abc import Collection
from fnmatch import filter as matching
from pathlib import Path

from mlx_mm.errors import UnsupportedModelError
from mlx_mm.processing.files import load_json, read_json

MODULES = "modules.json"  # of sentence-transformers: its modules in order, each with a type and a folder
# Types of modules, without the path of their package, that hold a model of transformers, and one that we do anyway
MODELS, NORMALIZE = ("CLIPModel", "Transformer"), "Normalize"
OF_TRANSFORMERS = "Use a checkpoint in the format of transformers, with config.json and model.safetensors."
# What such a folder has -> what it is, what to do
STRANGERS = (
    (
        "adapter_config.json",
        "a PEFT adapter",
        "Merge it into its base model with PEFT (merge_and_unload) and save that",
    ),
    ("open_clip*", "an open_clip checkpoint", "Use the same model in the format of transformers"),
    ("model_index.json", "a pipeline of diffusers, not one model", "Use a checkpoint of one of its models"),
    ("*.gguf", "a GGUF model of llama.cpp", "Use the original checkpoint"),
    ("*.onnx", "an ONNX export", "Use the original checkpoint"),
    ("onnx", "an ONNX export", "Use the original checkpoint"),
    ("*.mlpackage", "a Core ML model", "Use the original checkpoint"),
    ("saved_model.pb", "a model of TensorFlow", "Use a copy with model.safetensors"),
    ("tf_model.h5", "a model of TensorFlow", "Use a copy with model.safetensors"),
    ("flax_model.msgpack", "a model of Flax", "Use a copy with model.safetensors"),
)


def transformers_module(folder: Path) -> str:
    """The name of the folder within a folder of sentence-transformers that holds its model; "" for any other folder.

    Raises UnsupportedModelError where further modules would change the vectors, ConfigError for a damaged list.
    """
    if (folder / "config.json").exists() or not (folder / MODULES).is_file():
        return ""
    modules = load_json(folder / MODULES)
    rows = modules if isinstance(modules, list) and all(isinstance(row, dict) for row in modules) else []
    types = [str(row.get("type", "")).rpartition(".")[2] for row in rows]
    part = rows[0].get("path") if rows else None
    if not isinstance(part, str) or part in ("", ".", "..") or Path(part).name != part or types[0] not in MODELS:
        raise UnsupportedModelError(
            f"{folder} is a folder of sentence-transformers with the modules {', '.join(types) or 'of no list'}; "
            f"expected one that begins with {' or '.join(MODELS)} in a folder of its own. {OF_TRANSFORMERS}"
        )
    if others := [name for name in types[1:] if name != NORMALIZE]:
        raise UnsupportedModelError(
            f"{folder} is a folder of sentence-transformers whose model is followed by {', '.join(others)}, which "
            f"would change its vectors; expected a model alone. Load {folder / part} for the vectors before them."
        )
    return part


def name_stranger(folder: Path, names: Collection[str]) -> None:
    """Raise UnsupportedModelError that says what a folder with files of these names is, where it is known."""
    for pattern, kind, advice in STRANGERS:
        if matching(names, pattern):
            base = read_json(folder / pattern).get("base_model_name_or_path") if pattern.startswith("adapter") else None
            of = f" of {base}" if isinstance(base, str) else ""
            raise UnsupportedModelError(f"{folder} is {kind}{of} and has no config.json of a model. {advice}.")
