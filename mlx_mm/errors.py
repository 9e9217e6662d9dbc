"""Every error that mlx_mm raises on purpose.

    MlxMmError
    ├── ModelNotFoundError     no such folder, hub repository, revision or bundled name
    ├── UnsupportedModelError  a model, but of a family or kind that mlx_mm does not run
    ├── ConfigError            config.json or a processor file lacks a key or holds a value we cannot honour
    ├── WeightsError           tensors that are missing, unexpected, misshapen, damaged or not finite
    ├── ModalityError          the model has no tower for what was asked
    ├── MediaError             an image, sound or video that cannot be read
    ├── QuantizationError      bits, group size, mode or recipe that cannot be applied
    ├── OutputError            a result that cannot be written where it was asked
    ├── StoreError             an index of files that cannot be opened or used
    │   ├── OtherModelError    it holds vectors of another model, or of another setting of it
    │   ├── BusyError          another process is writing to it
    │   ├── NewerSchemaError   a newer mlx_mm made it
    │   └── DamagedError       a part of it is damaged
    ├── RanksError             processes that cannot compute together, or one of them that was lost
    └── InputError             any other argument with a value we cannot use
        └── LengthError        a prompt that leaves no room for an answer

A message says what was found, what was expected and what to do.
"""

import contextlib
import numbers
from collections.abc import Iterator
from typing import TypeGuard

REASON_CHARACTERS = 300  # of what a library says
SHOWN_CHARACTERS = 200  # of a value
MESSAGE_CHARACTERS = 4000  # of a message, in which a name in a foreign file may be any text


class MlxMmError(Exception):
    """Base of all errors that a user of mlx_mm can mend.

    The message is one line of about MESSAGE_CHARACTERS at most, in which what could steer a terminal is escaped.
    """

    place: int | str | None = None  # of what it is about among several: its number in a list, or its place in messages

    def __init__(self, message: str = ""):
        half = MESSAGE_CHARACTERS // 2
        cut = message if len(message) <= MESSAGE_CHARACTERS else f"{message[:half]}…{message[-half:]}"
        super().__init__(cut if cut.isprintable() else "".join(map(_visible, cut)))


class ModelNotFoundError(MlxMmError):
    """No such folder, hub repository, revision or bundled name."""


class UnsupportedModelError(MlxMmError):
    """A model, but of a family or kind that mlx_mm does not run."""


class ConfigError(MlxMmError):
    """A configuration file lacks a key or holds a value that cannot be honoured."""


class WeightsError(MlxMmError):
    """Tensors that are missing, unexpected, misshapen, damaged or not finite."""


class ModalityError(MlxMmError):
    """The model has no tower for what was asked."""


class MediaError(MlxMmError):
    """An image, sound or video that cannot be read."""


class QuantizationError(MlxMmError):
    """Bits, group size, mode or recipe that cannot be applied."""


class OutputError(MlxMmError):
    """A result that cannot be written where it was asked."""


class StoreError(MlxMmError):
    """An index of files that cannot be opened or used."""


class OtherModelError(StoreError):
    """An index holds vectors of another model, or of another setting of it."""


class BusyError(StoreError):
    """Another process is writing to an index."""


class NewerSchemaError(StoreError):
    """A newer mlx_mm made an index."""


class DamagedError(StoreError):
    """A part of an index is damaged."""


class RanksError(MlxMmError):
    """Processes that cannot compute together, or one of them that was lost."""


class InputError(MlxMmError):
    """An argument with a value that cannot be used."""


class LengthError(InputError):
    """A prompt that leaves no room for an answer."""


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number: NumPy's too, but neither True nor 2.0, which are more likely slips."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number: NumPy's too, but not True, which is more likely a slip."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def whole_number(
    name: str, value: object, *, least: int = 1, most: int | None = None, advice: str = "Leave it out."
) -> int:
    """`value` as an int where it `is_whole`. name: of the argument, for the InputError that says what was expected."""
    if is_whole(value) and least <= value and (most is None or value <= most):
        return int(value)
    expected = f"of {least} or more" if most is None else f"from {least} to {most}"
    raise InputError(f"{name} is {shown(value)}; expected a whole number {expected}. {advice}")


def shown(value: object) -> str:
    """A value as a message shows it: on one line that is not too long, whatever it is."""
    try:
        line = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # of whole numbers with thousands of digits, and of lists in lists in lists
        return f"a {type(value).__name__} that is too long to show"
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}… ({type(value).__name__})"


@contextlib.contextmanager
def at_place(place: int | str | None) -> Iterator[None]:
    """Inside, an error of this tree has this place, unless it has one."""
    try:
        yield
    except MlxMmError as error:
        error.place = place if error.place is None else error.place
        raise


@contextlib.contextmanager
def foreign(kind: type[MlxMmError], found: str, advice: str) -> Iterator[None]:
    """The outer net at a door for foreign files: inside, whatever a library makes of them is raised as `kind`.

    The message is `found`, which names the item and what was done with it, the library's reason in brackets, then
    `advice`: what was expected and what to do. Errors of this tree and interruptions pass; the panics of Rust
    libraries, which are no `Exception`, do not.
    """
    try:
        yield
    except MlxMmError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{found} ({reason(error)}); {advice}") from error


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def reason(error: BaseException) -> str:
    """What an error of a library says, on one line that is not too long; of an error of the system, its own words."""
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    line = " ".join(words.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= REASON_CHARACTERS else f"{line[:REASON_CHARACTERS]}…"
