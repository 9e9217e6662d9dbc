"""conversion.json: how a checkpoint was made, and what it cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from mlx_mm.quantize.cost import Cost
from mlx_mm.quantize.plan import LayerPlan
from mlx_mm.quantize.recipes import Recipe
from mlx_mm.quantize.scheme import QuantConfig

FORMAT = 1
FILE = "conversion.json"


def conversion_record(
    *,
    source: str,
    digest: str | None,
    scheme: QuantConfig | None,
    plans: Sequence[LayerPlan],
    recipe: str | Recipe | None,
    target: Mapping[str, float] | None,
    method: str | None,
    sizes: tuple[int, int],
    parameters: int,
    padded: dict[str, list[int]],
    seconds: float,
    cost: Cost | None,
) -> str:
    """The text of the file.

    source: its name, without the path. digest: of its tensors (`checkpoint.digest`), None where they were not read
    again. scheme: of most layers. plans: of all; those that differ are listed. target: {argument: value}, by which bits
    were dealt. method: how weights were rounded; None where none were. sizes: bytes before and after. seconds: of
    converting. cost: None where it was not measured.
    """
    layers: dict[str, object] = {}
    for layer in plans:
        if layer.scheme is None:
            layers[layer.path] = layer.reason
        elif layer.scheme != scheme:
            layers[layer.path] = asdict(layer.scheme)
    values = {
        "format": FORMAT,
        "source": {"name": source, "digest": digest, "bytes": sizes[0]},
        "bytes": sizes[1],
        "parameters": parameters,
        "quantization": None if scheme is None else asdict(scheme),
        "recipe": _plain(recipe),
        "target": target,
        "method": method,
        "layers": layers,
        "padded": padded,
        "seconds": round(seconds, 3),
        "cost": None if cost is None else cost.as_dict(),
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _plain(value: object) -> object:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
