"""Messages whose pictures are given beside them: each takes the place that was left for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glm_answers import picture

from mlx_mm import Conversation, generate, load, stream_generate
from mlx_mm.errors import InputError
from mlx_mm.generation.answer import join
from mlx_mm.processing.chat import fill_media, for_template

ONE, TWO, THREE = picture(1), picture(2, 60, 60), picture(3, 90, 30)
FILM = [np.full((56, 56, 3), value, np.uint8) for value in (10, 200)]
TEXT = {"type": "text", "text": "What is it?"}


def said(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, TEXT]}]


@pytest.fixture
def loaded(tiny_checkpoint: Callable[..., Path]) -> tuple[Any, Any]:
    return load(tiny_checkpoint("glm46v"))


SHAPES: list[dict[str, Any]] = [
    {"type": "image"},
    {"type": "image", "image": None},
    {"type": "image", "url": ""},
    {"type": "image_url"},
    {"type": "image_url", "image_url": {"url": ""}},
    {"type": "image_url", "image_url": None},
]


@pytest.mark.parametrize("part", SHAPES, ids=str)
def test_a_part_without_a_source_is_filled(part: dict[str, Any], loaded: Any) -> None:
    chat = loaded[1].chat
    for given in (ONE, [ONE], (ONE,), np.asarray(ONE)):
        found, expected = chat(said(part), images=given), chat(said({"type": "image", "image": ONE}))
        assert found.keys() == expected.keys()
        assert all((found[key] == expected[key]).all() for key in expected)


def test_in_reading_order_beside_those_that_have_one(loaded: Any) -> None:
    empty = {"type": "image"}
    messages: list[dict[str, Any]] = [
        *said(TEXT, empty),
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": [{"type": "image", "image": TWO}]},
        *said({"type": "image_url", "max_pixels": 3136}),
    ]
    full = [*messages]
    full[0] = said(TEXT, {"type": "image", "image": ONE})[0]
    full[3] = said({"type": "image", "image": THREE, "max_pixels": 3136})[0]
    found, expected = loaded[1].chat(messages, images=[ONE, THREE]), loaded[1].chat(full)
    assert all((found[key] == expected[key]).all() for key in expected)
    assert messages[0]["content"][1] == {"type": "image"}  # nothing of the user's is changed
    assert loaded[1].image_sizes(messages, images=[ONE, THREE]) == [(i.height, i.width) for i in (ONE, TWO, THREE)]


def test_videos_and_images_are_filled_apart(loaded: Any) -> None:
    messages = said({"type": "video", "fps": 1.0}, {"type": "image"})
    found = loaded[1].chat(messages, images=[ONE], videos=[FILM])
    expected = loaded[1].chat(said({"type": "video", "video": FILM, "fps": 1.0}, {"type": "image", "image": ONE}))
    assert all((found[key] == expected[key]).all() for key in expected)
    assert loaded[1].image_sizes(messages, images=[ONE]) == [(ONE.height, ONE.width)]
    # of the kind without such parts, all stand before the text as ever
    found = loaded[1].chat(said({"type": "image"}), images=[ONE], videos=[FILM], fps=1.0)
    expected = loaded[1].chat(said({"type": "image", "image": ONE}), videos=[FILM], fps=1.0)
    assert all((found[key] == expected[key]).all() for key in expected)


@pytest.mark.parametrize(
    ("parts", "images", "videos", "words"),
    [
        ([{"type": "image"}], [], [], "have 1 parts of type image without a source, .* and 0 images were given"),
        ([{"type": "image"}], [ONE, TWO], [], "have 1 parts of type image .* and 2 images were given"),
        ([{"type": "image"}] * 3, [ONE, TWO], [], "have 3 parts of type image .* and 2 images were given"),
        ([{"type": "image"}], [], [FILM], "have 1 parts of type image .* and 0 images were given"),
        ([{"type": "video"}], [ONE], [], "have 1 parts of type video .* and 0 videos were given"),
        ([{"type": "video_url"}] * 2, [], [FILM], "have 2 parts of type video .* and 1 videos were given"),
    ],
)
def test_other_counts_are_refused(parts: Any, images: Any, videos: Any, words: str, loaded: Any) -> None:
    for call in (loaded[1].chat, lambda *args, **options: generate(*loaded, *args, **options)):
        with pytest.raises(InputError, match=rf"{words}; expected as many of both\. Give one for each"):
            call(said(*parts), images=images, videos=videos)


def test_what_is_filled_can_be_shown(loaded: Any) -> None:
    messages, rest = fill_media(said({"type": "image", "detail": "low"}), "image", [ONE])
    assert (rest, for_template(messages)) == ((), for_template(said({"type": "image"})))
    assert messages[0]["content"][0] == {"type": "image", "image": ONE, "detail": "low"}  # type: ignore[index]
    assert fill_media(messages, "image", [TWO]) == (messages, [TWO])


def test_answers(loaded: Any) -> None:
    """The same from every verb, and as a batch."""
    messages, full = said({"type": "image"}), said({"type": "image", "image": ONE})
    expected = generate(*loaded, full, max_tokens=5)
    assert generate(*loaded, messages, images=ONE, max_tokens=5).raw == expected.raw
    assert join(stream_generate(*loaded, messages, images=[ONE], max_tokens=5)).raw == expected.raw
    assert generate(*loaded, "What is it?", images=[ONE], max_tokens=5).raw == expected.raw
    processor = loaded[1]
    found = processor.collate([processor.chat(messages, images=[image]) for image in (ONE, TWO)])
    right = processor.collate([processor.chat(said({"type": "image", "image": image})) for image in (ONE, TWO)])
    assert all((found[key] == right[key]).all() for key in right)


def test_conversations_fill_their_messages(loaded: Any) -> None:
    expected = Conversation(*loaded, messages=said({"type": "image", "image": ONE}))
    conversation = Conversation(*loaded, messages=said({"type": "image"}))
    for _ in range(2):
        with pytest.raises(InputError, match="and 2 images were given"):
            join(conversation.ask(None, images=[ONE, TWO], max_tokens=5))
        assert conversation.messages == said({"type": "image"})
    answer = join(conversation.ask(None, images=ONE, max_tokens=5))
    assert answer.raw == join(expected.ask(None, max_tokens=5)).raw
    assert conversation.messages[0] == expected.messages[0]
    with pytest.raises(InputError, match="text is None"):
        join(conversation.ask(None, images=ONE))
    answer = join(conversation.ask("And this?", images=TWO, max_tokens=5))
    assert answer.raw == join(expected.ask("And this?", images=TWO, max_tokens=5)).raw
    assert conversation.messages == expected.messages

    late = Conversation(*loaded, messages=[*said({"type": "image"}), {"role": "assistant", "content": "A cat."}])
    assert join(late.ask("Sure?", images=[ONE], max_tokens=5)).prompt_tokens > 0
    assert late.messages[0]["content"][0] == {"type": "image", "image": ONE}  # type: ignore[index]
    assert late.messages[2] == {"role": "user", "content": "Sure?"}
