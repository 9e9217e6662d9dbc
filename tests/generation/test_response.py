"""What is the same for the answers of every family: tokens to text, stop strings, boxes in pixels."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mlx_mm.errors import InputError
from mlx_mm.generation.response import Listener, ResponsePart, StopStrings, scale_boxes


class Plain:
    """An answer without any marker."""

    box_range = 1
    reasoning_open = False

    def feed(self, text: str) -> list[ResponsePart]:
        return [ResponsePart(text)]

    def finish(self) -> list[ResponsePart]:
        return []

    def boxes(self) -> list[list[float]]:
        return []


def test_listener_keeps_whitespace_inside() -> None:
    listener = Listener(lambda ids: "".join(map(chr, ids)), Plain(), "END")
    said = [listener.hear(ord(character)).text for character in " a \n b \nEN \nEND and"]
    assert "".join(said) + listener.finish().text == " a \n b \nEN"
    assert listener.stopped


def test_scale_boxes() -> None:
    assert scale_boxes([[0, 500, 1000, 1000]], 640, 480) == [[0, 240, 640, 480]]
    assert scale_boxes([], 1, 1) == []
    with pytest.raises(InputError, match="0 by 5"):
        scale_boxes([[0, 0, 1, 1]], 0, 5)
    with pytest.raises(InputError, match="3 numbers"):
        scale_boxes([[0, 0, 1]], 5, 5)
    assert scale_boxes([[0, 0.5, 1, 1]], 640, 480, box_range=1) == [[0, 240, 640, 480]]


def cuttings(raw: str) -> list[list[str]]:
    """Every way to cut a text in two, single characters, and some random ways."""
    rng = random.Random(raw)
    result = [[raw[:cut], raw[cut:]] for cut in range(len(raw) + 1)] + [list(raw)]
    for _ in range(20):
        cuts = sorted(rng.sample(range(len(raw) + 1), min(len(raw), rng.randint(1, 8))))
        result.append([raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)])
    return result


# --- stop strings -----------------------------------------------------------------------------------------------


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The rule itself: up to the first place at which a stop string stands."""
    places = [place for place in range(len(text)) if any(text.startswith(stop, place) for stop in stops)]
    return (text[: places[0]], True) if places else (text, False)


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("Hello END more", ["END"]),
        ("Hello EN", ["END"]),
        ("abc", ["b", "abc"]),
        ("abd", ["b", "abc"]),
        ("ab", ["b", "abc"]),
        ("aaab", ["aab"]),
        ("xxaabaab", ["aabaac", "ba"]),
        ("no stop", []),
        ("\n\nQ: x", ["\n\n", "Q:"]),
    ],
)
def test_stop_strings(text: str, stops: list[str]) -> None:
    for chunks in cuttings(text):
        stop, shown = StopStrings(stops), ""
        for chunk in chunks:
            shown += stop.feed(chunk)[0]
            assert cut(text, stops)[0].startswith(shown), chunks
        last, stopped = stop.finish()
        assert (shown + last, stopped) == cut(text, stops), chunks


@pytest.mark.parametrize("seed", range(40))
def test_stop_strings_of_nonsense(seed: int) -> None:
    rng = random.Random(seed)
    stops = ["".join(rng.choices("ab", k=rng.randint(1, 5))) for _ in range(rng.randint(1, 3))]
    test_stop_strings("".join(rng.choices("abc", k=15)), stops)


def test_nothing_after_a_stop() -> None:
    stop = StopStrings("END")
    assert stop.feed("a EN") == ("a ", False)
    assert stop.feed("D b") == ("", True)
    assert stop.feed("c") == ("", True)
    assert stop.finish() == ("", True)


@pytest.mark.parametrize("stops", ["", ["a", ""], [5]])
def test_stop_strings_refused(stops: Any) -> None:
    with pytest.raises(InputError, match="stop strings"):
        StopStrings(stops)
