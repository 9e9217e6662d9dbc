"""Values of JSON from users, who may give anything: what they may hold, and how errors show them."""

import math

from mlx_mm.errors import InputError

MAX_DEPTH = 100
MAX_VALUES = 1_000_000
MAX_CHARACTERS = 2**24  # more than any model reads; what a chat template may write
MAX_BITS = 2**13  # of a whole number
QUOTED = 60  # characters of a value that an error shows


def check_plain(value: object, where: str, *, most_characters: int = MAX_CHARACTERS) -> None:
    """Raise InputError for what JSON has no form for, and for more than a prompt can hold.

    Text without half surrogate pairs, True, False, None, finite numbers, lists, and dicts with text as keys. What holds
    itself has no end and is too deep or too much.
    """
    level, count, characters = [value], 1, 0
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for item in level:
            if isinstance(item, str):
                check_text(item, where)
                characters += len(item)
            elif isinstance(item, dict):
                if odd := [key for key in item if not isinstance(key, str)]:
                    raise _refusal(where, f"a key of it is {quoted(odd[0])}")
                inner += (*item, *item.values())
            elif isinstance(item, list | tuple):
                inner += item
            elif isinstance(item, int) and item.bit_length() > MAX_BITS:
                raise _refusal(where, "it holds a number of thousands of digits")
            elif isinstance(item, float) and not math.isfinite(item):
                raise _refusal(where, f"it holds {item}")
            elif not (item is None or isinstance(item, int | float)):
                raise _refusal(where, f"it holds a {type(item).__name__}")
            if count + len(inner) > MAX_VALUES or characters > most_characters:
                raise _refusal(where, f"it holds more than {MAX_VALUES:,} values or {most_characters:,} characters")
        if not inner:
            return
        level, count = inner, count + len(inner)
    raise _refusal(where, f"it is nested more than {MAX_DEPTH} times, or holds itself")


def check_text(text: str, where: str) -> None:
    """Raise InputError for half a surrogate pair, of which no tokens can be made."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} holds half of a surrogate pair ({error.reason}); expected valid Unicode. Decode its source "
            "again, with errors='replace'."
        ) from error


def quoted(value: object) -> str:
    """A value as an error shows it: text and small numbers as Python writes them, of others what they are."""
    if isinstance(value, str):
        return repr(value) if len(value) <= QUOTED else f"{value[:QUOTED]!r}…"
    small = isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() < QUOTED)
    return repr(value) if value is None or small else f"a {type(value).__name__}"


def _refusal(where: str, why: str) -> InputError:
    return InputError(f"{where} cannot be JSON ({why}); expected plain values. Change it.")
