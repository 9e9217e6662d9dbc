"""Names of tensors, as several families need them."""

from typing import TypeVar

Value = TypeVar("Value")


def complete_names(weights: dict[str, Value], tower: str | None, others: tuple[str, ...]) -> dict[str, Value]:
    """Tensors under the names of a joint model, whichever transformers saved them.

    tower: "text_model." where it was saved alone, None for a joint model: transformers 5 leaves the prefix out.
    others: how the names of tensors beside the tower start. Left out: the position_ids that transformers before
    4.31 saved, which are 0, 1, 2, ….
    """
    kept = {name: weight for name, weight in weights.items() if not name.endswith("position_ids")}
    if tower is None:
        return kept
    return {name if name.startswith((tower, *others)) else tower + name: weight for name, weight in kept.items()}


def widen_mlps(
    values: dict[str, object], config: object, multiple: int
) -> tuple[dict[str, object], dict[str, list[int]]]:
    """Round each tower's `intermediate_size` up to a multiple, so that its MLP can be quantised in groups.

    An MLP whose activation maps 0 to 0 may be wider for free: the added units have zero weights. So may the last
    matrix of any MLP, over zeros that the family appends. values is config.json, config what the family read from
    it. Returns the new config.json, of which the wider model is built like any other, and a record
    {key: [old, new]} of what changed.
    """
    record: dict[str, list[int]] = {}
    for section in ("text_config", "vision_config"):
        tower = getattr(config, section, None)  # not every family has both sections
        if tower is not None:
            values, changed = round_up(values, section, "intermediate_size", tower.intermediate_size, multiple)
            record |= changed
    return values, record


def round_up(
    values: dict[str, object], section: str, key: str, width: int, multiple: int
) -> tuple[dict[str, object], dict[str, list[int]]]:
    """The same for one width, the value of `key` in a section. A tower saved alone has its keys at the top."""
    if width % multiple == 0:
        return values, {}
    wider = -(-width // multiple) * multiple
    parts = {name: part for name in (section, f"{section}_dict") if isinstance(part := values.get(name), dict)}
    if not parts:
        return values | {key: wider}, {key: [width, wider]}
    return (
        values | {name: part | {key: wider} for name, part in parts.items()},
        {f"{section}.{key}": [width, wider]},
    )
