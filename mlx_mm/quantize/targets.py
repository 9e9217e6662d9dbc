"""What is asked of a conversion instead of bits: a size, or how little may be lost; and how that is reached."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlx_mm.errors import QuantizationError, is_number, is_whole, shown
from mlx_mm.quantize.budget import Choice, Losses, Option, shown_size, total, within_losses, within_size

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
TURNS = 5  # conversions at most, on the way to a measured loss
MOST_KL = 1e6  # nats, more than any distributions differ by
NEAR = 0.8  # of what may be lost, from which on nothing smaller is looked for
MARGIN = 0.95  # of what may be lost, at which the next conversion aims
NAMES = {"encoder": "target_cosine", "generator": "target_kl", "classifier": "target_kl"}

# What a conversion to these options lost as measured, by kind of input; None where that is not measured
Attempt = Callable[[Choice], Losses | None]


@dataclass(frozen=True)
class Target:
    """name: of the argument. value: bytes, a cosine, or a divergence in nats."""

    name: str
    value: float

    def check_kind(self, kind: str) -> None:
        """Raise QuantizationError where a model of that kind gives no such thing."""
        if self.name not in ("target_size", NAMES[kind]):
            gives = "vectors" if kind == "encoder" else "distributions"
            raise QuantizationError(
                f"{self.name} was given, and this checkpoint gives {gives}; expected {NAMES[kind]} or target_size."
            )

    def limits(self, kinds: Sequence[str]) -> Losses:
        """The most that each kind may lose."""
        most = 1 - self.value if self.name == "target_cosine" else self.value
        return dict.fromkeys(kinds, most)

    def missed(self, losses: Losses, size: int) -> QuantizationError:
        """The error of a target that was not reached; losses, size: the nearest."""
        kind = max(losses, key=lambda kind: losses[kind])
        found = 1 - losses[kind] if self.name == "target_cosine" else losses[kind]
        return QuantizationError(
            f"{self.name} is {self.value:g}, and the nearest that was reached is {_rounded(found, self.name)} (of "
            f"{kind} inputs, {shown_size(size)}). Pass that, or convert without a target."
        )


def find_target(cosine: object, size: object, kl: object) -> Target | None:
    """The one that was given, None for none. Raises QuantizationError."""
    given = {"target_cosine": cosine, "target_size": size, "target_kl": kl}
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return None
    if len(names) > 1:
        raise QuantizationError(f"{' and '.join(names)} were given; expected one of them. Leave the others out.")
    name = names[0]
    value = given[name]
    if name == "target_size":
        return Target(name, _bytes(value))
    most = 1.0 if name == "target_cosine" else MOST_KL
    if not is_number(value) or not 0 < value < most:
        expected = "a number between 0 and 1" if name == "target_cosine" else "a number above 0, in nats"
        raise QuantizationError(f"{name} is {shown(value)}; expected {expected}.")
    return Target(name, float(value))


def _bytes(value: object) -> int:
    """Of a whole number, or of text such as "1.2GB", in powers of ten."""
    found = (
        re.fullmatch(r"([0-9]*\.?[0-9]+) *([KMGT]?)B?", value.strip(), re.IGNORECASE)
        if isinstance(value, str)
        else None
    )
    size = float(found[1]) * UNITS[found[2].upper()] if found else value
    if not (found or is_whole(value)) or not is_number(size) or not 1 <= size < 1e18:
        raise QuantizationError(f"target_size is {shown(value)}; expected bytes, or text such as '1.2GB' or '300MB'.")
    return int(size)


def check_size(size: int, source: int) -> None:
    """Raise QuantizationError where a target is above the bytes of the source."""
    if size > source:
        raise QuantizationError(
            f"target_size is {shown_size(size)}, and the source has {shown_size(source)}. Pass less, or keep its "
            "precision with bits=None."
        )


def reach(target: Target, layers: Mapping[str, Sequence[Option]], rest: int, source: int, attempt: Attempt) -> None:
    """Convert so that a target is met; the last attempt is the one that counts.

    layers: the options of each. rest: bytes of all else. source: bytes of the source. What is expected of a choice adds
    up what single layers lose, rounded without compensation: where the measured loss is another, the limits are moved
    by their ratio and it is converted again. Raises QuantizationError that names the nearest that is possible.
    """
    if target.name == "target_size":
        check_size(int(target.value), source)
        attempt(within_size(layers, int(target.value), rest))
        return
    kinds = sorted({kind for options in layers.values() for option in options for kind in option.losses})
    limits = target.limits(kinds)
    aims: Losses = limits
    met: Losses | None = None
    missed: Losses | None = None
    nearest: tuple[Losses, int] | None = None
    for _ in range(TURNS):
        choice = within_losses(layers, aims, strict=False)
        expected, size = total(choice).losses, total(choice).bytes + rest
        got = attempt(choice)
        if got is None:  # nobody measures, so what is expected has to do
            if any(expected.get(kind, 0.0) > limit for kind, limit in limits.items()):
                raise target.missed(expected, size)
            return
        if nearest is None or max(got.values()) < max(nearest[0].values()):
            nearest = got, size
        shares = {kind: got.get(kind, 0.0) / limit for kind, limit in limits.items()}
        if max(shares.values()) <= 1:
            met = aims
            if max(shares.values()) >= NEAR:
                return
        else:
            missed = aims
            if choice == within_losses(layers, dict.fromkeys(kinds, 0.0), strict=False):
                break  # there are no more bits
        aims = _between(met, missed) if met and missed else _moved(aims, shares)
    if met:
        attempt(within_losses(layers, met, strict=False))
        return
    assert nearest is not None
    raise target.missed(*nearest)


def _moved(aims: Losses, shares: Mapping[str, float]) -> Losses:
    """By how much less, or more, was lost than allowed; at most ten times. While one kind loses too much, none may lose
    more than before: what layers lose of one they lose of others."""
    most = 1.0 if max(shares.values()) > 1 else 10.0
    return {kind: aim * min(MARGIN / min(max(shares[kind], 0.1), 10.0), most) for kind, aim in aims.items()}


def _between(met: Losses, missed: Losses) -> Losses:
    return {kind: math.sqrt(met[kind] * missed[kind]) for kind in met}


def _rounded(value: float, name: str) -> str:
    """On the side that is possible."""
    if name == "target_cosine":
        return f"{math.floor(value * 1e5) / 1e5:.5f}"
    return f"{math.ceil(value * 1e5) / 1e5:.5f}"
