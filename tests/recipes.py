"""Every tiny checkpoint by name: what its folder holds, and what its model must say that it is.

`RECIPES` has one row for each class of each family, `test_contract.py` runs over all of them. A new family adds its
rows here, made by a module of its own such as `clap_tiny`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from clap_tiny import clap_weights, tiny_clap_config, write_clap_side_files
from glm_side_files import write_glm_side_files
from glm_tiny import DENSE, MOE, glm_config, glm_weights
from jina_tiny import jina_weights, tiny_jina_config, write_jina_side_files
from metaclip_tiny import (
    CLASSES,
    clip_classification_shapes,
    tiny_clip_config,
    tiny_clip_weights,
    write_clip_side_files,
)
from tiny import classification_shapes, golden_weights, tiny_config, tiny_weights, write_checkpoint, write_side_files

Config = dict[str, Any]
Weights = dict[str, np.ndarray]

# The fields of what transformers' classes return
IMAGE_TEXT = ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
IMAGE_TEXT += ("text_model_output", "vision_model_output")
AUDIO_TEXT = ("loss", "logits_per_audio", "logits_per_text", "text_embeds", "audio_embeds")
AUDIO_TEXT += ("text_model_output", "audio_model_output")
STATES = ("last_hidden_state", "hidden_states", "attentions")
POOLED = (*STATES, "pooler_output")
CLASSES_SCORED = ("loss", "logits", "hidden_states", "attentions")
TOKENS_SCORED = (*CLASSES_SCORED, "rope_deltas")


@dataclass(frozen=True)
class Recipe:
    """A checkpoint as on the hub.

    config: makes config.json. weights: makes its tensors, in PyTorch layout under their names on disk. side_files:
    writes the files of the processor. kind, modalities: of the model. fields: of what the model returns.
    lowest_cosine: to the source, of 4 and of 8 bits; tiny widths cost more than real ones.
    """

    config: Callable[[], Config]
    weights: Callable[[Config], Weights]
    side_files: Callable[[Path, Config], None]
    fields: tuple[str, ...]
    modalities: tuple[str, ...] = ("text", "image")
    kind: str = "encoder"
    lowest_cosine: tuple[float, float] = (0.97, 0.9995)

    def write(self, folder: Path, *, shards: int = 1) -> Path:
        """The checkpoint in `folder`; with `shards` > 1 in that many files and an index."""
        config = self.config()
        return write_checkpoint(folder, config, _weights(self), shards=shards, side_files=self.side_files)


@functools.cache
def _weights(recipe: Recipe) -> Weights:
    """Made once, because most tests write a checkpoint of their own."""
    return recipe.weights(recipe.config())


def _siglip(model_type: str) -> Recipe:
    return Recipe(lambda: tiny_config(model_type), tiny_weights, write_side_files, IMAGE_TEXT)


def _clip(model_type: str) -> Recipe:
    config = functools.partial(tiny_clip_config, model_type)
    return Recipe(config, tiny_clip_weights, write_clip_side_files, IMAGE_TEXT, lowest_cosine=(0.95, 0.9995))


def _clap(fusion: bool) -> Recipe:
    config = functools.partial(tiny_clap_config, fusion)
    return Recipe(config, clap_weights, write_clap_side_files, AUDIO_TEXT, modalities=("text", "audio"))


def _glm(model_type: str, name: str, architecture: str) -> Recipe:
    return Recipe(
        lambda: glm_config(name) | {"model_type": model_type, "architectures": [architecture]},
        glm_weights,
        write_glm_side_files,
        TOKENS_SCORED,
        modalities=("text", "image", "video"),
        kind="generator",
        lowest_cosine=(0.9, 0.999),
    )


def _tower(whole: Recipe, tower: str, architecture: str, *projection: str) -> Recipe:
    """One tower of a joint checkpoint ("text", "vision", "audio") as transformers saves it, or with its projection."""

    def config() -> Config:
        joint = whole.config()
        width = {"projection_dim": joint["projection_dim"]} if projection else {}
        return joint[f"{tower}_config"] | {"architectures": [architecture], **width}

    def weights(_: Config) -> Weights:
        keep = (f"{tower}_model.", *projection)
        return {name: array for name, array in _weights(whole).items() if name.startswith(keep)}

    modality = "image" if tower == "vision" else tower
    fields = (*STATES, f"{modality}_embeds") if projection else POOLED
    return dataclasses.replace(whole, config=config, weights=weights, fields=fields, modalities=(modality,))


def _classifier(whole: Recipe, architecture: str, shapes: Callable[[Config, int], Any]) -> Recipe:
    labels = {str(i): label for i, label in enumerate(("cat", "dog", "owl"))}
    return dataclasses.replace(
        whole,
        config=lambda: whole.config() | {"architectures": [architecture], "id2label": labels},
        weights=lambda config: golden_weights(shapes(config, len(labels))),
        fields=CLASSES_SCORED,
        modalities=("image",),
        kind="classifier",
    )


def _siglip_family() -> dict[str, Recipe]:
    rows = {}
    for name in ("siglip", "siglip2"):
        whole, class_name = _siglip(name), name.capitalize()
        rows[name] = whole
        rows[f"{name}-text"] = _tower(whole, "text", f"{class_name}TextModel")
        rows[f"{name}-vision"] = _tower(whole, "vision", f"{class_name}VisionModel")
        rows[f"{name}-classifier"] = _classifier(whole, f"{class_name}ForImageClassification", classification_shapes)
    return rows


def _clip_family() -> dict[str, Recipe]:
    rows = {}
    for name, class_name in CLASSES.items():
        whole = _clip(name)
        rows[name] = whole
        for tower, projection in (("text", "text_projection."), ("vision", "visual_projection.")):
            architecture = f"{class_name}{tower.capitalize()}Model"
            rows[f"{name}-{tower}"] = _tower(whole, tower, architecture)
            rows[f"{name}-{tower}-projection"] = _tower(whole, tower, f"{architecture}WithProjection", projection)
        architecture = f"{class_name}ForImageClassification"
        rows[f"{name}-classifier"] = _classifier(whole, architecture, clip_classification_shapes)
    return rows


def _clap_family() -> dict[str, Recipe]:
    rows = {"clap": _clap(fusion=False), "clap-fused": _clap(fusion=True)}
    for tower in ("text", "audio"):
        architecture, projection = f"Clap{tower.capitalize()}Model", f"{tower}_projection."
        rows[f"clap-{tower}"] = _tower(rows["clap"], tower, architecture)
        rows[f"clap-{tower}-projection"] = _tower(rows["clap"], tower, f"{architecture}WithProjection", projection)
    return rows


# Name of a tiny checkpoint -> recipe; joint models and models that answer have their `model_type`
RECIPES: dict[str, Recipe] = {
    **_siglip_family(),
    **_clip_family(),
    **_clap_family(),
    "jina_clip": Recipe(tiny_jina_config, jina_weights, write_jina_side_files, IMAGE_TEXT, lowest_cosine=(0.9, 0.999)),
    "glm46v": _glm("glm46v", DENSE, "Glm46VForConditionalGeneration"),
    "glm4v": _glm("glm4v", DENSE, "Glm4vForConditionalGeneration"),
    "glm4v_moe": _glm("glm4v_moe", MOE, "Glm4vMoeForConditionalGeneration"),
}
