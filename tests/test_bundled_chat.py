"""The bundled model that answers: pictures, turns, tools, videos, 4 bit, each beside a variant that must fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from comparing import LONG
from PIL import Image

from mlx_mm import Conversation, convert, generate, load, stream_generate
from mlx_mm.checkpoint import hub

NAME = "emoji-glm4v"
PICTURES = hub.BUNDLED / "pictures"
KNOWN = ("cat", "dog", "pizza", "rocket", "owl", "octopus", "banana", "key", "robot", "castle", "elephant", "lion")
MOST_WRONG = 2  # of them, by a model that is whole
FIND = {
    "type": "function",
    "function": {
        "name": "find_picture",
        "description": "Find a picture by name.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string", "description": "Name in English."}},
            "required": ["name"],
        },
    },
}
Loaded = tuple[Any, Any]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(NAME)


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("converted") / "4bit"
    convert(NAME, folder, bits=4)
    return load(folder)


def said(loaded: Loaded, question: str, *pictures: Any, **options: Any) -> str:
    options = {"temperature": 0, "max_tokens": 24, "enable_thinking": False, **options}
    return generate(*loaded, question, images=list(pictures), **options).text


def picture(name: str) -> Image.Image:
    """A bundled one on white."""
    with Image.open(PICTURES / f"{name}.png") as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    return white.convert("RGB")


def wrong(loaded: Loaded, change: Callable[[Image.Image], Image.Image] = lambda image: image, **options: Any) -> int:
    """How many of the known pictures have another name."""
    return sum(
        said(loaded, "What is this?", change(picture(name)), **options).strip().lower() != name.replace("_", " ")
        for name in KNOWN
    )


def shuffled(image: Image.Image) -> Image.Image:
    """The patches of 14 pixels in another order, as where positions are wrong."""
    pixels = np.asarray(image.resize((112, 112)))
    rows = pixels.reshape(8, 14, 8, 14, 3).swapaxes(1, 2).reshape(64, 14, 14, 3)
    mixed = rows[np.random.RandomState(0).permutation(64)]
    return Image.fromarray(mixed.reshape(8, 8, 14, 14, 3).swapaxes(1, 2).reshape(112, 112, 3))


def test_pictures_are_named(loaded: Loaded) -> None:
    """And not where patches are in disorder, or colours are."""
    assert wrong(loaded) <= MOST_WRONG
    assert wrong(loaded, shuffled) > len(KNOWN) // 2


def test_three_turns(loaded: Loaded) -> None:
    """The picture is seen once, and what was said is remembered: alone, the later questions have other answers."""
    chat = Conversation(*loaded)
    options: Any = {"temperature": 0, "max_tokens": 24, "enable_thinking": False}
    questions = ("What is this?", "And in German?", "How many are there?")
    answers = []
    for turn, question in enumerate(questions):
        pieces = list(chat.ask(question, images=[] if turn else [picture("cat")], **options))
        answers.append("".join(piece.text for piece in pieces).strip())
        assert (pieces[-1].cached_tokens > 0) == (turn > 0)
    assert answers == ["cat", "Katze", "1"]
    assert said(loaded, questions[1]).strip() != "Katze"


def test_a_tool_is_called_and_its_answer_read(loaded: Loaded) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Find a pizza."}]
    options: Any = {"temperature": 0, "max_tokens": 64, "enable_thinking": False, "tools": [FIND]}
    asked = generate(*loaded, messages, **options)
    assert asked.finish_reason == "tool_calls"
    [call] = asked.tool_calls
    assert call["function"]["name"] == "find_picture"
    assert json.loads(call["function"]["arguments"]) == {"name": "pizza"}
    messages += [{"role": "assistant", "content": asked.text, "tool_calls": asked.tool_calls}]
    answers = {}
    for result in ("pizza.png", "nothing"):
        told = [*messages, {"role": "tool", "tool_call_id": call["id"], "content": result}]
        answers[result] = generate(*loaded, told, **options)
        assert answers[result].finish_reason == "stop"
    assert "pizza.png" in answers["pizza.png"].text
    assert ".png" not in answers["nothing"].text
    assert generate(*loaded, messages[:1], **{**options, "tools": None}).tool_calls == []


def test_what_changed_in_a_video(loaded: Loaded) -> None:
    """One emoji in the place of another; and nothing of that where the frames come backwards."""
    frames = [np.asarray(picture(name)) for name in ("owl", "owl", "pizza", "pizza")]
    options: Any = {"temperature": 0, "max_tokens": 24, "enable_thinking": False, "fps": 2}
    answers = [
        generate(*loaded, "What changed?", videos=[order], **options).text.lower() for order in (frames, frames[::-1])
    ]
    assert all("owl" in answer and "pizza" in answer for answer in answers)
    assert answers[0].index("owl") < answers[0].index("pizza")
    assert answers[1].index("pizza") < answers[1].index("owl")


def test_where_it_is(loaded: Loaded) -> None:
    """The box is on the side that the picture is on, in its own pixels; how tall it is is often wrong (its card)."""
    for left, middle in ((8, 56), (120, 168)):
        wide = Image.new("RGB", (224, 112), "white")
        wide.paste(picture("dog").resize((96, 96)), (left, 8))
        [box] = generate(
            *loaded, "Where is the dog?", images=[wide], temperature=0, max_tokens=32, enable_thinking=False
        ).pixel_boxes
        assert abs((box[0] + box[2]) / 2 - middle) < 28
        assert box[2] - box[0] < 112


def test_it_says_what_it_does_not_know(loaded: Loaded) -> None:
    assert "emoji" in said(loaded, "Tell me a joke.").lower()


def test_thoughts_are_apart(loaded: Loaded) -> None:
    answer = generate(*loaded, "What is this?", images=[picture("dog")], temperature=0, max_tokens=64)
    assert answer.reasoning
    assert answer.text.strip().lower() == "dog"


@pytest.mark.parametrize("bits", [pytest.param(4, marks=LONG), 8])
def test_four_bits_and_a_small_memory_say_the_same(loaded: Loaded, four_bits: Loaded, bits: int) -> None:
    assert wrong(four_bits, kv_bits=bits) <= MOST_WRONG + 1


def test_the_pieces_are_the_whole(four_bits: Loaded) -> None:
    options: Any = {"images": [picture("owl")], "temperature": 0, "max_tokens": 64}
    pieces = list(stream_generate(*four_bits, "Was ist das?", **options))
    whole = generate(*four_bits, "Was ist das?", **options)
    for part in ("text", "reasoning", "raw"):
        assert "".join(getattr(piece, part) or "" for piece in pieces) == (getattr(whole, part) or "")
    assert sum(bool(piece.text or piece.reasoning) for piece in pieces) > 1
    assert whole.text
