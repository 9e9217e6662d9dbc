"""Every class of the families' API checklists gives the fields and the values of transformers' class of that name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import api_checklist
import mlx.core as mx
import numpy as np
import pytest
from api_checklist import CLAP_KINDS, CLIP_KINDS, ROWS, TOLERANCES, clap, differences, kind_of, metaclip, siglip
from beside import save

import mlx_mm
from mlx_mm.layers.embeddings import kernel_matrix
from mlx_mm.layers.similarity import unit_length


@pytest.mark.parametrize("name", ROWS)
def test_class(name: str, tmp_path: Path) -> None:
    found = differences(*ROWS[name](tmp_path))
    assert len([field for field in found if field.endswith(("hidden_states", "attentions"))]) in (2, 4)
    far = {field: worst for field, worst in found.items() if worst > TOLERANCES[kind_of(field)]}
    assert not far, found


def misses(got: Any, right: Any) -> bool:
    return any(worst > 10 * TOLERANCES[kind_of(field)] for field, worst in differences(got, right).items())


@pytest.mark.parametrize(
    "name",
    ["MetaClip2TextModelWithProjection", "CLIPVisionModelWithProjection", "ClapAudioModelWithProjection"],
)
def test_normalised_vectors_of_a_projection_are_told(name: str, tmp_path: Path) -> None:
    got, right = ROWS[name](tmp_path)
    (embeds,) = (field.name for field in dataclasses.fields(got) if field.name.endswith("_embeds"))
    assert not misses(got, right)
    assert misses(dataclasses.replace(got, **{embeds: unit_length(getattr(got, embeds))}), right)


@pytest.mark.parametrize("name", ["SiglipTextModel", "Siglip2VisionModel", "MetaClip2VisionModel", "ClapTextModel"])
def test_other_hidden_states_are_told(name: str, tmp_path: Path) -> None:
    """In another order, without the embeddings, or with the normed states at the end where they are raw."""
    got, right = ROWS[name](tmp_path)
    states = got.hidden_states
    assert misses(dataclasses.replace(got, hidden_states=states[::-1]), right)
    assert misses(dataclasses.replace(got, hidden_states=(*states[1:], states[-1])), right)
    if name.startswith("Siglip"):
        assert misses(dataclasses.replace(got, hidden_states=(*states[:-1], got.last_hidden_state)), right)
    with pytest.raises(AssertionError):
        differences(dataclasses.replace(got, hidden_states=states[1:]), right)


def test_a_field_that_is_missing_or_elsewhere_is_told(tmp_path: Path) -> None:
    got, right = ROWS["SiglipVisionModel"](tmp_path)
    with pytest.raises(AssertionError):
        differences(dataclasses.replace(got, pooler_output=None), right)
    swapped = dataclasses.make_dataclass("Swapped", [field.name for field in dataclasses.fields(got)][::-1])
    with pytest.raises(AssertionError):
        differences(swapped(**vars(got)), right)
    assert api_checklist.fields_of(got) == ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
    assert isinstance(got.pooler_output, mx.array)


SINGLE = [
    *((siglip, variant, kind) for variant in (siglip.FIXRES, siglip.NAFLEX) for kind in ("TextModel", "VisionModel")),
    *((metaclip, variant, kind) for variant in metaclip.SHORT for kind in CLIP_KINDS[1:]),
    *((clap, "unfused", kind) for kind in CLAP_KINDS[1:]),
]


@pytest.mark.parametrize(("family", "variant", "kind"), SINGLE)
def test_input_embeddings(family: Any, variant: Any, kind: str, tmp_path: Path) -> None:
    """The table of tokens, or the projection of patches, which is a matrix here."""
    reference = family.make(variant, kind)
    model, _ = mlx_mm.load(save(reference, tmp_path))
    right = reference.get_input_embeddings().weight.detach().numpy()
    right = np.array(kernel_matrix(mx.array(right))) if right.ndim == 4 else right
    assert np.array_equal(model.get_input_embeddings().weight, right)
