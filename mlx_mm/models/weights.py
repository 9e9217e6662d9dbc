"""Names of tensors, as several families need them."""

from typing import Any, TypeVar

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


def widen_mlps(values: dict[str, Any], config: object, multiple: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Round each tower's `intermediate_size` up to a multiple, so that its MLP can be quantised in groups.

    An MLP whose activation maps 0 to 0 may be wider for free: the added units have zero weights. So may the last
    matrix of any MLP, over zeros that the family appends. values is config.json, config what the family read from
    it. Returns the new config.json, of which the wider model is built like any other, and a record
    {key: [old, new]} of what changed.
    """
    result, record = dict(values), {}
    for section in ("text_config", "vision_config"):
        tower = getattr(config, section, None)  # not every family has both sections
        if tower is None or tower.intermediate_size % multiple == 0:
            continue
        wider = -(-tower.intermediate_size // multiple) * multiple
        if keys := [key for key in (section, f"{section}_dict") if isinstance(values.get(key), dict)]:
            result |= {key: {**values[key], "intermediate_size": wider} for key in keys}
            record[f"{section}.intermediate_size"] = [tower.intermediate_size, wider]
        else:  # a tower saved alone has its keys at the top
            result["intermediate_size"] = wider
            record["intermediate_size"] = [tower.intermediate_size, wider]
    return result, record
