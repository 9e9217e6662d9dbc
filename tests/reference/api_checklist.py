"""Every class of the families' checklists beside transformers' class of that name: fields, their order, their values.

`ROWS` makes both outputs of a class: a tiny random model of transformers, saved and taken through `mlx_mm.load`.
Run as a script, this file prints the table of docs/api.md.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(folder) for folder in Path(__file__).parents[:3]]

import mlx.core as mx
import numpy as np
import test_clap_reference as clap
import test_glm4v_reference as glm
import test_jina_clip_reference as jina
import test_metaclip_2_reference as metaclip
import test_siglip2_reference as siglip
from beside import difference, ours, save
from glm_side_files import write_glm_side_files

import mlx_mm
from mlx_mm.layers.outputs import ImageTextOutput, TowerOutput

EVERYTHING = {"output_hidden_states": True, "output_attentions": True}
# What the end of a field's name says about its numbers -> the largest difference that counts as equal
TOLERANCES = {"embeds": 1e-5, "attentions": 1e-5, "loss": 1e-4, "logits": 1e-4, "states": 1e-4}
# Fields that one side alone has: a cache is the caller's, who passes it to us, transformers keeps rope_deltas on the
# model, and what routes tokens to experts is given for their training alone
OMITTED = {"past_key_values", "rope_deltas", "aux_loss", "router_logits"}

Outputs = tuple[Any, Any]
Make = Callable[[Path], Outputs]


def fields_of(output: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(output) if field.name not in OMITTED]


def differences(got: Any, right: Any) -> dict[str, float]:
    """The largest difference of each field that is there; both have the same fields, in the same order."""
    assert fields_of(got) == fields_of(right)
    found: dict[str, float] = {}
    for name in fields_of(right):
        a, b = getattr(got, name), getattr(right, name)
        assert (a is None) == (b is None), name
        if dataclasses.is_dataclass(b):
            found |= {f"{name}.{part}": worst for part, worst in differences(a, b).items()}
        elif isinstance(b, tuple | list):
            assert len(a) == len(b) > 0, name
            found[name] = max(difference(x, y) for x, y in zip(a, b, strict=True))
        elif b is not None:
            found[name] = difference(a, b)
    return found


def kind_of(field: str) -> str:
    """The key of TOLERANCES for a field."""
    last = field.split(".")[-1]
    return next((kind for kind in TOLERANCES if kind in last), "states")


def outputs(reference: Any, folder: Path, batch: dict[str, np.ndarray], run: Any = None, **options: Any) -> Outputs:
    """What our class and transformers' give for a batch, every state asked for."""
    model, _ = mlx_mm.load(save(reference, folder))
    options |= EVERYTHING
    right = (run or metaclip.run)(reference, batch, **options)
    return model(**ours(batch), **options), right


# --- SigLIP ---------------------------------------------------------------------------------------------------------


def _siglip(variant: str, kind: str, **changes: Any) -> Make:
    def make(folder: Path) -> Outputs:
        batch, options = siglip.images(variant), {}
        if kind == "ForImageClassification":
            reference = siglip.make(variant, kind, num_labels=5)
            batch["labels"] = np.array([4, 0, 2])
        else:
            reference = siglip.make(variant, kind)
        if changes:
            config = siglip.joint_config(variant).vision_config
            for key, value in changes.items():
                setattr(config, key, value)
            own = siglip.class_of(variant, kind)._from_config(config, attn_implementation="eager")
            reference = siglip.randomise(own)
        if kind == "TextModel":
            batch = {"input_ids": siglip.texts()}
        elif kind == "Model":
            batch, options = {"input_ids": siglip.texts()} | batch, {"return_loss": True}
        return outputs(reference, folder, batch, **options)

    return make


# --- MetaCLIP 2 and CLIP --------------------------------------------------------------------------------------------


def _clip(variant: metaclip.Variant, kind: str) -> Make:
    def make(folder: Path) -> Outputs:
        batch, labels, options = metaclip.images(), {}, {}
        if kind == "ForImageClassification":
            labels = {"num_labels": 5}
            batch["labels"] = np.array([4, 0, 2])
        elif kind.startswith("Text"):
            batch = metaclip.texts(variant[2])
        elif kind == "Model":
            batch, options = metaclip.texts(variant[2]) | batch, {"return_loss": True}
        return outputs(metaclip.make(variant, kind, **labels), folder, batch, **options)

    return make


# --- CLAP -----------------------------------------------------------------------------------------------------------


def _clap(form: str, kind: str) -> Make:
    def make(folder: Path) -> Outputs:
        batch, options = clap.sounds(form), {}
        if kind.startswith("Text"):
            batch = clap.texts()
        elif kind == "Model":
            batch, options = clap.texts() | batch, {"return_loss": True}
        return outputs(clap.make(form, kind), folder, batch, clap.run, **options)

    return make


# --- Jina CLIP v2, whose class stands in the checkpoint's own code -------------------------------------------------


def _jina(folder: Path) -> Outputs:
    config = jina.make_config()
    weights = jina.random_weights(config)
    model, _ = mlx_mm.load(jina.save(config, weights, folder))
    reference = jina.make_reference(config, weights)
    ids, pixels = jina.texts(16, 5, 9), jina.images(config)
    text, image = jina.read_texts(reference, ids), jina.read_images(reference, pixels)
    logits = text.unit @ image.unit.T * np.exp(reference.scale)
    pairs = jina.torch.arange(len(logits))
    cross_entropy = jina.torch.nn.functional.cross_entropy
    towers = [TowerOutput(seen.last, seen.pooled, tuple(seen.states), tuple(seen.attentions)) for seen in (text, image)]
    right = ImageTextOutput(
        loss=(cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2,
        logits_per_image=logits.T,
        logits_per_text=logits,
        text_embeds=text.unit,
        image_embeds=image.unit,
        text_model_output=towers[0],
        vision_model_output=towers[1],
    )
    return model(mx.array(ids), jina.nhwc(pixels), return_loss=True, **EVERYTHING), right


# --- GLM ------------------------------------------------------------------------------------------------------------


GLM_CONFIGS = {"glm46v": glm.DENSE, "glm4v": glm.CONFIGS["glm4v"], "glm4v_moe": glm.MOE}


def _glm(name: str, *, base: bool) -> Make:
    def make(folder: Path) -> Outputs:
        reference = glm.theirs_of(GLM_CONFIGS[name], base)
        reference.save_pretrained(folder)
        write_glm_side_files(folder, json.loads((folder / "config.json").read_text("utf-8")))
        model, _ = mlx_mm.load(folder)
        batch = glm.PROMPTS["two images"]
        options: dict[str, Any] = dict(EVERYTHING)
        right = {**glm.as_torch(batch), **options, "use_cache": False}
        if not base:
            options["labels"], right["labels"] = batch["input_ids"], glm.as_torch(batch)["input_ids"]
        with glm.torch.no_grad():
            return model(**batch, **options), reference(**right)

    return make


CLIP_KINDS = ("Model", "TextModel", "TextModelWithProjection", "VisionModel", "VisionModelWithProjection")
CLAP_KINDS = ("Model", "TextModel", "TextModelWithProjection", "AudioModel", "AudioModelWithProjection")
ROWS: dict[str, Make] = {
    **{
        siglip.class_of(variant, kind).__name__: _siglip(variant, kind)
        for variant in (siglip.FIXRES, siglip.NAFLEX)
        for kind in ("Model", "TextModel", "VisionModel", "ForImageClassification")
    },
    **{
        f"{siglip.class_of(variant, 'VisionModel').__name__} without its head": _siglip(
            variant, "VisionModel", vision_use_head=False
        )
        for variant in (siglip.FIXRES, siglip.NAFLEX)
    },
    **{
        metaclip.class_of(variant, kind).__name__: _clip(variant, kind)
        for variant in metaclip.SHORT
        for kind in (*CLIP_KINDS, "ForImageClassification")
    },
    **{f"Clap{kind}": _clap("unfused", kind) for kind in CLAP_KINDS},
    **{f"Clap{kind} with fusion": _clap("fused", kind) for kind in ("Model", "AudioModel", "AudioModelWithProjection")},
    "JinaCLIPModel": _jina,
    **{names[2 if base else 1]: _glm(key, base=base) for key, names in glm.CLASSES.items() for base in (True, False)},
}


ABOUT = """# What a class returns

`model(**batch, output_hidden_states=True, output_attentions=True)` gives the fields of transformers' class of the name
that stands in `architectures` of config.json, in its order, and their values. The numbers are the largest differences
from transformers 5.23, in float32, of tiny random models that it saved and `mlx_mm.load` loaded; of Jina CLIP, whose
class is not part of transformers, from its towers in transformers and timm. CLAP is held against transformers in
float64. A cache is the caller's here, so GLM's classes give no `past_key_values`; they give `rope_deltas`, which
transformers keeps on the model, and leave out what only the training of experts needs.

Made by `python tests/reference/api_checklist.py > docs/api.md`.

"""


def table() -> str:
    """The measured table, in Markdown."""
    kinds = {"embeds": "embeddings", "logits": "logits", "loss": "loss", "states": "states", "attentions": "attentions"}
    lines = [
        *ABOUT.splitlines(),
        f"| class | fields | {' | '.join(kinds.values())} |",
        "|---|---|" + "---|" * len(kinds),
    ]
    for name, make in ROWS.items():
        with tempfile.TemporaryDirectory() as folder:
            got, right = make(Path(folder))
        found = differences(got, right)
        cells = []
        for kind in kinds:
            worst = [value for field, value in found.items() if kind_of(field) == kind]
            cells.append(f"{max(worst):.0e}" if worst else "")
        lines.append(f"| {name} | {', '.join(f'`{field}`' for field in vars(got))} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
