"""What a family says about the tensors of its models, and names of tensors as several families need them."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.checkpoint.rows import Rows

Weights: TypeAlias = dict[str, mx.array]
Tensors: TypeAlias = dict[str, mx.array | Rows]
Renames: TypeAlias = tuple[tuple[str, str], ...]  # parts of names, theirs -> ours, in the order they are replaced
# how the path of a parameter ends -> the axis that grows with an MLP, or it and its equal parts below each other
PaddedAxes: TypeAlias = tuple[tuple[str, int | tuple[int, int]], ...]
Towers: TypeAlias = Mapping[str, tuple[str, ...]]  # modality -> how the paths of its layers start

# How the names of a tower's layers start, its own first, then its projection's
TEXT_PARTS = ("text_model.", "text_projection.")
IMAGE_PARTS = ("vision_model.", "visual_projection.")
AUDIO_PARTS = ("audio_model.", "audio_projection.")
PARTS = (*TEXT_PARTS, *IMAGE_PARTS, *AUDIO_PARTS, "logit_")
# The parameters of `layers.transformer.MLP` that grow with its width, and the axis that does.
MLP_AXES: PaddedAxes = ((".mlp.fc1.weight", 0), (".mlp.fc1.bias", 0), (".mlp.fc2.weight", 1))


class WeightRules(NamedTuple):
    """What a family says about the tensors of one model; see `models.contracts.Checkpointed`."""

    sanitize: Callable[[Weights], Tensors]
    restore: Callable[[Tensors], Tensors]
    quant_predicate: Callable[[str, nn.Module], bool]
    cast_predicate: Callable[[str], bool]
    padded_axes: PaddedAxes = MLP_AXES


def rename(name: str, renames: Renames) -> str:
    """A name of theirs as ours."""
    for theirs, ours in renames:
        name = name.replace(theirs, ours)
    return name


def rename_back(name: str, renames: Renames) -> str:
    """A name of ours as theirs."""
    for theirs, ours in reversed(renames):
        name = name.replace(ours, theirs)
    return name


def not_in_texts(path: str) -> bool:
    """The `cast_predicate` of the CLIP kind: text towers lose accuracy in float16, vision towers do not."""
    return not_a_scale(path) and not path.startswith(TEXT_PARTS)


def not_a_scale(path: str) -> bool:
    """The `cast_predicate` of towers that are accurate in float16; a scale is not, once it is exponentiated."""
    return not path.startswith("logit_")


def own_parts(weights: Weights, parameters: Collection[str]) -> Weights:
    """Tensors in our layout for a model with these parameters: one tower takes its own out of a joint checkpoint.

    Left out are whole towers, projections and scales that the model is without. Other names that it does not know stay.
    """
    lacking = tuple(part for part in PARTS if not any(name.startswith(part) for name in parameters))
    if len({TEXT_PARTS[0], IMAGE_PARTS[0], AUDIO_PARTS[0]}.difference(lacking)) != 1:
        return weights
    return {name: weight for name, weight in weights.items() if not name.startswith(lacking)}


def complete_names(weights: Weights, own: tuple[str, ...] | None, known: tuple[str, ...]) -> Weights:
    """Tensors under the names of a joint model, whichever transformers saved them; a tower alone takes its own.

    own: how the names of a tower alone start, the tower's part first, which transformers 5 leaves out; None for a
    joint model. known: how all names of a joint model start. Left out: the position_ids that transformers before 4.31
    saved, which are 0, 1, 2, ….
    """
    kept = {name: weight for name, weight in weights.items() if not name.endswith("position_ids")}
    if own is None:
        return kept
    named = {name if name.startswith(known) else own[0] + name: weight for name, weight in kept.items()}
    return {name: weight for name, weight in named.items() if name.startswith(own)}
