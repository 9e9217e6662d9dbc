"""How many bits each layer gets, so that a file of a given size loses least, or one that loses little is smallest.

What layers lose adds up: each adds an error of its own to the result, and those of different layers have nothing to do
with each other. So this is a knapsack of which every layer puts in one of its options. Of each layer only the options
on the lower convex hull of size and loss are of use, and taking next the step that saves most per byte is then as good
as any choice but for the last step (Sinha and Zoltners, "The multiple-choice knapsack problem", 1979).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from mlx_mm.errors import QuantizationError
from mlx_mm.quantize.scheme import QuantConfig

Losses: TypeAlias = Mapping[str, float]  # by what is read: 1 − cosine of text, image, … or the divergence of answers
Choice: TypeAlias = dict[str, "Option"]  # path -> what its layer is stored as

MOST_POINTS = 60  # of a curve that is shown


@dataclass(frozen=True)
class Option:
    """One way to store a layer: None as it is. bytes: of its tensors. losses: what it alone costs the result."""

    scheme: QuantConfig | None
    bytes: int
    losses: Losses


@dataclass(frozen=True)
class Point:
    """A file of so many bytes, and what it is expected to lose."""

    bytes: int
    losses: Losses


def within_size(layers: Mapping[str, Sequence[Option]], size: int, rest: int = 0) -> Choice:
    """The options that lose least together in so many bytes, of which `rest` are taken by what is no layer.

    Raises QuantizationError where the smallest are larger.
    """
    choice = _smallest(layers)
    smallest = total(choice).bytes + rest
    if smallest > size:
        raise QuantizationError(
            f"target_size is {shown_size(size)}, and the smallest file has {shown_size(smallest)}. "
            f"Pass {smallest} or more."
        )
    left = size - smallest
    for path, option in _steps(layers):
        more = option.bytes - choice[path].bytes
        if 0 < more <= left:
            choice[path], left = option, left - more
    alike = [one for one in _alike(layers) if total(one).bytes + rest <= size]
    return min([choice, *alike], key=lambda one: (sum(total(one).losses.values()), total(one).bytes))


def _alike(layers: Mapping[str, Sequence[Option]]) -> Iterator[Choice]:
    """The choices of one scheme for all layers, fitted to their widths, which the last step may have passed by."""
    asked = {option.scheme: None for options in layers.values() for option in options}
    for scheme in asked:
        choice = {path: _fitting(options, scheme) for path, options in layers.items()}
        found = {path: option for path, option in choice.items() if option is not None}
        if len(found) == len(choice):
            yield found


def _fitting(options: Sequence[Option], scheme: QuantConfig | None) -> Option | None:
    """The option of a scheme, or of the next smaller group size that there is."""
    if scheme is None:
        return next((option for option in options if option.scheme is None), None)
    sizes = {
        option.scheme.group_size: option
        for option in options
        if option.scheme is not None
        and (option.scheme.bits, option.scheme.mode) == (scheme.bits, scheme.mode)
        and option.scheme.group_size <= scheme.group_size
    }
    return sizes[max(sizes)] if sizes else None


def within_losses(layers: Mapping[str, Sequence[Option]], limits: Losses, *, strict: bool = True) -> Choice:
    """The options that are smallest together and lose no more than `limits`.

    Raises QuantizationError where those that lose least lose more; not strict, these are returned then.
    """
    choice = _smallest(layers)
    most = {path: _hull(options)[-1] for path, options in layers.items()}
    least = total(most)
    for kind, limit in limits.items():
        if least.losses.get(kind, 0.0) > limit and not strict:
            return most
        if least.losses.get(kind, 0.0) > limit:
            raise QuantizationError(
                f"The target allows {kind} to lose {limit:.3g}, and with the most bits it loses "
                f"{least.losses[kind]:.3g}. Pass that or more."
            )
    taken: list[tuple[str, Option]] = []  # with what it was before
    for kind, limit in limits.items():
        for path, option in _steps(layers, kind):
            if total(choice).losses.get(kind, 0.0) <= limit:
                break
            if option.bytes > choice[path].bytes:
                taken.append((path, choice[path]))
                choice[path] = option
    for path, before in reversed(taken):  # the last steps may have made earlier ones needless
        trial = {**choice, path: before}
        if before.bytes < choice[path].bytes and _fits(total(trial).losses, limits):
            choice = trial
    return choice


def curve(layers: Mapping[str, Sequence[Option]], rest: int = 0) -> list[Point]:
    """From the smallest file to the one that loses least, as `within_size` goes. rest: bytes of what is no layer."""
    choice = _smallest(layers)
    points = [total(choice)]
    for path, option in _steps(layers):
        choice[path] = option
        points.append(total(choice))
    every = -(-len(points) // MOST_POINTS)
    kept = points[:-1:every] + points[-1:]
    return [Point(point.bytes + rest, point.losses) for point in kept]


def total(choice: Choice) -> Point:
    """Bytes and losses of all options together."""
    losses: dict[str, float] = {}
    for option in choice.values():
        for kind, loss in option.losses.items():
            losses[kind] = losses.get(kind, 0.0) + loss
    return Point(sum(option.bytes for option in choice.values()), losses)


def shown_size(size: int) -> str:
    """ "1.2 kB", "1,234.5 MB"."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def _fits(losses: Losses, limits: Losses) -> bool:
    return all(losses.get(kind, 0.0) <= limit for kind, limit in limits.items())


def _smallest(layers: Mapping[str, Sequence[Option]]) -> Choice:
    return {path: _hull(options)[0] for path, options in layers.items()}


def _steps(layers: Mapping[str, Sequence[Option]], kind: str | None = None) -> Iterator[tuple[str, Option]]:
    """Every step from an option to the next larger one of the same layer, the most worthwhile first; of equal ones the
    first by path. kind: what is to lose less; by default all together."""
    steps = []
    for path, options in layers.items():
        hull = _hull(options, kind)
        for before, after in pairwise(hull):
            worth = (_loss(before, kind) - _loss(after, kind)) / (after.bytes - before.bytes)
            steps.append((-worth, path, after.bytes, after))
    for _, path, _, option in sorted(steps, key=lambda step: step[:3]):
        yield path, option


def _hull(options: Sequence[Option], kind: str | None = None) -> list[Option]:
    """Of increasing size those on the lower convex hull of size and loss; each loses less than the one before."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.bytes, _loss(option, kind))):
        if hull and _loss(option, kind) >= _loss(hull[-1], kind):
            continue
        while len(hull) > 1 and _worth(hull[-2], hull[-1], kind) <= _worth(hull[-1], option, kind):
            hull.pop()
        hull.append(option)
    return hull


def _worth(before: Option, after: Option, kind: str | None) -> float:
    return (_loss(before, kind) - _loss(after, kind)) / (after.bytes - before.bytes)


def _loss(option: Option, kind: str | None) -> float:
    return sum(option.losses.values()) if kind is None else option.losses.get(kind, 0.0)
