"""What rounding a model's weights cost, as numbers: of vectors, of answers, of single layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

LEAST_NEIGHBOURS = 3  # vectors, of which each has a choice of neighbours
MARKDOWN_VECTORS = "| | compared | cosine, mean | lowest | same nearest neighbour |\n|---|---|---|---|---|"
MARKDOWN_TOKENS = "| | distributions | KL divergence, mean | highest | same first choice |\n|---|---|---|---|---|"
MARKDOWN_LAYERS = "| layer | bits | its own error | effect on the result |\n|---|---|---|---|"


@dataclass(frozen=True)
class VectorCost:
    """Vectors against the source's.

    items: how many were compared. mean, lowest: of their cosines. neighbours: the share of them whose nearest
    neighbour among the others of their kind is the same; None for fewer than 3.
    """

    items: int
    mean: float
    lowest: float
    neighbours: float | None


@dataclass(frozen=True)
class TokenCost:
    """Distributions over tokens, or over a classifier's labels, against the source's.

    items: how many were compared. mean, highest: of the Kullback-Leibler divergences of the other from the source's,
    in nats. first: the share in which both have the same first choice.
    """

    items: int
    mean: float
    highest: float
    first: float


@dataclass(frozen=True)
class LayerCost:
    """One layer.

    bits: of its weight, None where it is no quantised one. error: |y' - y| / |y| of what it gives for the source's own
    inputs. effect: with all other layers as the source has them, 1 - cosine of the vectors, or the KL divergence of the
    distributions; None where it was not measured.
    """

    path: str
    bits: int | None
    error: float
    effect: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a checkpoint lost against its source.

    vectors: of an encoder, by the kind of input. pairs: the share of texts whose nearest picture or sound is the same;
    None for a model of one kind. tokens: of a generator, by "text" (questions without pictures) and "image" (with
    some), of a classifier by "image". along: where a generator's distributions are from: the source's "answers", or
    the "prompts" of a model that is too large to answer meanwhile. layers: the five whose own error is the largest,
    worst first. probes: {kind: [how many, "bundled" or the folder they are from]}. seconds: that measuring took.
    """

    vectors: Mapping[str, VectorCost]
    pairs: float | None
    tokens: Mapping[str, TokenCost]
    along: str | None
    layers: tuple[LayerCost, ...]
    probes: Mapping[str, tuple[int, str]]
    seconds: float

    def losses(self) -> dict[str, float]:
        """By kind of input 1 - cosine, or the divergence, on the mean."""
        return {kind: 1 - one.mean for kind, one in self.vectors.items()} | {k: t.mean for k, t in self.tokens.items()}

    def as_dict(self) -> dict[str, object]:
        """The same in plain types, as JSON has them."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}

    def as_markdown(self) -> str:
        """The same as tables for a model card."""
        parts = []
        if self.vectors:
            rows = (
                f"| {kind} | {cost.items} | {cost.mean:.5f} | {cost.lowest:.5f} | {share(cost.neighbours)} |"
                for kind, cost in self.vectors.items()
            )
            parts.append("\n".join([MARKDOWN_VECTORS, *rows]))
        if self.pairs is not None:
            parts.append(f"For {share(self.pairs)} of the texts the nearest of the others is the same.")
        if self.tokens:
            rows = (
                f"| {kind} | {cost.items} | {cost.mean:.5f} | {cost.highest:.5f} | {share(cost.first)} |"
                for kind, cost in self.tokens.items()
            )
            parts.append("\n".join([MARKDOWN_TOKENS, *rows]))
        if self.layers:
            rows = (
                f"| {layer.path} | {layer.bits or 'float'} | {layer.error:.4f} | {effect(layer.effect)} |"
                for layer in self.layers
            )
            parts.append("The layers that lost most:\n\n" + "\n".join([MARKDOWN_LAYERS, *rows]))
        return "\n\n".join(parts)


def share(value: float | None) -> str:
    """A share in percent; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def effect(value: float | None) -> str:
    """A number that may be very small; a dash for none."""
    return "-" if value is None else f"{value:.2g}"


def vector_cost(ours: Floats, theirs: Floats) -> VectorCost:
    """Of vectors (N, D) of the other and of the source, of any length above 0."""
    mine, source = _units(ours), _units(theirs)
    cosines = (mine * source).sum(axis=1)
    same = None
    if len(mine) >= LEAST_NEIGHBOURS:
        same = float((_nearest(mine, mine, itself=False) == _nearest(source, source, itself=False)).mean())
    return VectorCost(len(mine), float(cosines.mean()), float(cosines.min()), same)


def pair_agreement(ours: tuple[Floats, Floats], theirs: tuple[Floats, Floats]) -> float:
    """The share of texts (N, D) whose nearest of the others (M, D) is the same for both; each a pair of texts and
    others."""
    mine, source = (_nearest(_units(texts), _units(others), itself=True) for texts, others in (ours, theirs))
    return float((mine == source).mean())


def token_cost(divergences: Floats, same: npt.NDArray[np.bool_]) -> TokenCost:
    """Of what `divergence` gives."""
    return TokenCost(len(same), float(divergences.mean()), float(divergences.max()), float(same.mean()))


def divergence(ours: Floats, theirs: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Logits (N, V) of the other and of the source -> KL(source || other) in nats, and whether the first choice is the
    same, (N,). With the logarithms of probabilities as logits those are compared."""
    mine, source = (_log_softmax(np.asarray(logits, np.float64)) for logits in (ours, theirs))
    with np.errstate(invalid="ignore"):
        terms = np.where(source > -np.inf, np.exp(source) * (source - mine), 0)
    return np.maximum(terms.sum(axis=1), 0), ours.argmax(axis=1) == theirs.argmax(axis=1)


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _units(vectors: Floats) -> Floats:
    wide = np.asarray(vectors, np.float64)
    result: Floats = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return result


def _nearest(of: Floats, among: Floats, *, itself: bool) -> npt.NDArray[np.intp]:
    """The index of the nearest of `among` for each unit vector; itself: a vector may be its own neighbour."""
    cosines = of @ among.T
    if not itself:
        np.fill_diagonal(cosines, -np.inf)
    return cosines.argmax(axis=1)
