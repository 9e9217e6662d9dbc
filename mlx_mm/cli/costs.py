"""What a checkpoint lost, as lines for a terminal."""

from typing import TYPE_CHECKING

from mlx_mm.cli.output import visible
from mlx_mm.cli.tables import plural, table

if TYPE_CHECKING:
    from mlx_mm.quantize.cost import Cost

NOUNS = {"text": "text", "image": "picture", "audio": "sound", "chat": "question"}


def cost_table(cost: "Cost", width: int | None = None) -> str:
    """The tables of a cost, one below the other. width: as of `table`."""
    from mlx_mm.quantize.cost import effect, share

    parts = []
    if cost.vectors:
        rows = [("vectors", "compared", "cosine, mean", "lowest", "same nearest neighbour")]
        rows += [
            (kind, str(one.items), f"{one.mean:.5f}", f"{one.lowest:.5f}", share(one.neighbours))
            for kind, one in cost.vectors.items()
        ]
        parts.append(table(rows, "<>>>>", width))
    if cost.pairs is not None:
        parts.append(f"for {share(cost.pairs)} of the texts the nearest of the others is the same")
    if cost.tokens:
        rows = [("distributions", "compared", "KL divergence, mean", "highest", "same first choice")]
        rows += [
            (kind, str(one.items), f"{one.mean:.5f}", f"{one.highest:.5f}", share(one.first))
            for kind, one in cost.tokens.items()
        ]
        parts.append(table(rows, "<>>>>", width))
    if cost.layers:
        lines = [("layers that lost most", "bits", "own error", "effect")]
        lines += [
            (layer.path, str(layer.bits or "float"), f"{layer.error:.4f}", effect(layer.effect))
            for layer in cost.layers
        ]
        parts.append(table(lines, "<>>>", width))
    tried = ", ".join(f"{plural(count, NOUNS[kind])} ({visible(name)})" for kind, (count, name) in cost.probes.items())
    along = f", along the source's {cost.along}" if cost.along else ""
    parts.append(f"measured on {tried}{along} in {cost.seconds:.1f} s")
    return "\n".join(parts)
