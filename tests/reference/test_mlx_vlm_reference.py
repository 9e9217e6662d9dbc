"""Folders that mlx-vlm converted run here, and ours run there: `pip install mlx-vlm`, which brings no torch.

Compared where mlx-vlm 0.7.10 is right: text, and one image whose grid is that of the position table.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from glm_models import BEGIN, Batch, answer, prompt, worst
from glm_side_files import write_glm_side_files
from glm_tiny import DENSE, GROUPED, MODELS, MOE, glm_config, glm_weights
from tiny import write_checkpoint

import mlx_mm

mlx_vlm = pytest.importorskip("mlx_vlm")
from mlx_vlm.generate import generate_step  # noqa: E402
from mlx_vlm.utils import load_model, load_processor  # noqa: E402

pytestmark = pytest.mark.usefixtures("exact_inputs")  # as theirs are

# Both in float32 with the same weights. With an image it is mlx-vlm's way to sample the position table.
TEXT, IMAGE = 1e-5, 2e-4
BATCHES = {TEXT: prompt(10, 11, 12, 13, 14, 15, 16, 17), IMAGE: prompt(10, 11, (6, 6), 12, 13)}


def source(tmp_path: Path, name: str, *, old: bool) -> Path:
    """A Hugging Face folder of one of `MODELS`; old: with the rotary keys of transformers 4, which mlx-vlm reads."""
    config = copy.deepcopy(glm_config(name))
    config["vision_start_token_id"] = BEGIN  # mlx-vlm would take the id of the published checkpoints
    text = config["text_config"]
    if name == DENSE:
        config["model_type"] = "glm4v"  # it refuses glm46v, which no published checkpoint has
    if old:
        rope = text.pop("rope_parameters")
        text |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor")}
        text["rope_scaling"] = {"type": "default", "mrope_section": rope["mrope_section"]}
        text["use_qk_norm"] = False
    return write_checkpoint(tmp_path / "source", config, glm_weights(config), side_files=write_glm_side_files)


def their_logits(model: Any, batch: Batch) -> mx.array:
    pictures = {key: batch[key] for key in ("image_grid_thw",) if key in batch}
    logits: mx.array = model(batch["input_ids"], batch.get("pixel_values"), **pictures).logits
    return logits


def check_same(folder: Path) -> Any:
    """Loaded by both, a folder gives the same logits; returns our model."""
    theirs = load_model(folder)
    load_processor(folder, add_detokenizer=False)  # its detokenizer wants an id for every row of the vocabulary
    ours, _ = mlx_mm.load(folder)
    for tolerance, batch in BATCHES.items():
        assert worst(ours(**batch).logits, their_logits(theirs, batch)) < tolerance
    return ours


OURS = [(name, old, bits) for name in (DENSE, MOE) for old, bits in ((False, None), (False, 8), (False, 4), (True, 4))]
OURS += [(GROUPED, False, 4)]


@pytest.mark.parametrize(("name", "old", "bits"), OURS)
def test_ours_there(name: str, old: bool, bits: int | None, tmp_path: Path) -> None:
    folder = source(tmp_path, name, old=old)
    mlx_mm.convert(folder, tmp_path / "ours", bits=bits, group_size=32, dtype="float32")
    check_same(tmp_path / "ours")


QUANTISED = [
    {"q_bits": 4, "q_group_size": 32},
    {"q_bits": 6, "q_group_size": 64},
    {"q_bits": 3, "q_group_size": 32},
    {"q_bits": 4, "q_group_size": 32, "q_mode": "mxfp4"},
    {"q_bits": 4, "q_group_size": 16, "q_mode": "nvfp4"},
    {"quant_predicate": "mixed_4_6"},  # bits of each layer by its path
]


@pytest.mark.parametrize("options", QUANTISED, ids=str)
@pytest.mark.parametrize("name", [DENSE, MOE])
def test_theirs_quantised_here(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = source(tmp_path, name, old=True)
    mlx_vlm.convert(str(folder), str(tmp_path / "theirs"), quantize=True, **options)
    check_same(tmp_path / "theirs")


@pytest.mark.parametrize("name", MODELS)
def test_theirs_here(name: str, tmp_path: Path) -> None:
    """Nothing is lost on the way: exactly what we compute from the source."""
    folder = source(tmp_path, name, old=True)
    mlx_vlm.convert(str(folder), str(tmp_path / "theirs"))
    model, right = check_same(tmp_path / "theirs"), mlx_mm.load(folder)[0]
    assert all(worst(model(**batch).logits, right(**batch).logits) == 0 for batch in BATCHES.values())


def test_theirs_of_new_keys_here(tmp_path: Path) -> None:
    """Which mlx-vlm copies and does not read: it runs its own folder with another rotary base."""
    folder = source(tmp_path, DENSE, old=False)
    mlx_vlm.convert(str(folder), str(tmp_path / "theirs"))
    model, right = mlx_mm.load(tmp_path / "theirs")[0], mlx_mm.load(folder)[0]
    assert all(worst(model(**batch).logits, right(**batch).logits) == 0 for batch in BATCHES.values())


@pytest.mark.parametrize("name", ["Glm46VProcessor", "Glm4vProcessor"])
@pytest.mark.parametrize("model", [DENSE, MOE])
def test_labels_of_videos_survive(model: str, name: str, tmp_path: Path) -> None:
    """mlx-vlm writes the same processor class for both generations, in some of the files."""
    folder = source(tmp_path, model, old=True)
    for file in ("preprocessor_config.json", "video_preprocessor_config.json", "tokenizer_config.json"):
        text = (folder / file).read_text("utf-8")
        (folder / file).write_text(text.replace("Glm46VProcessor", name), "utf-8")
    mlx_vlm.convert(str(folder), str(tmp_path / "theirs"))
    samplings = [mlx_mm.load(path)[1].frame_sampling for path in (folder, tmp_path / "theirs")]
    assert samplings[0] == samplings[1]
    assert samplings[0].decimals == (name == "Glm46VProcessor")


def test_greedy_tokens_there(tmp_path: Path) -> None:
    """Its own loop, with its caches, over our folder."""
    folder = source(tmp_path, DENSE, old=False)
    mlx_mm.convert(folder, tmp_path / "ours", bits=4, group_size=32, dtype="float32")
    theirs, ours = load_model(tmp_path / "ours"), mlx_mm.load(tmp_path / "ours")[0]
    for batch in BATCHES.values():
        given = {key: batch[key] for key in ("image_grid_thw",) if key in batch}
        steps = generate_step(batch["input_ids"], theirs, batch.get("pixel_values"), None, max_tokens=8, **given)
        assert [int(np.array(token)) for token, _ in steps] == answer(ours, batch, 8)
