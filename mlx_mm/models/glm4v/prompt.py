"""Placeholders of images and videos in prompts: where they stand, what they become, who may write them."""

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from mlx_mm.errors import InputError, is_number
from mlx_mm.processing.chat import Messages, Tools, check_tools, parts_in, texts_in, typed_markers
from mlx_mm.processing.messages import MediaPart
from mlx_mm.processing.plain import QUOTED, quoted

IMAGE_MARK, VIDEO_MARK = "<|image|>", "<|video|>"
BEGIN_IMAGE, END_IMAGE = "<|begin_of_image|>", "<|end_of_image|>"
BEGIN_VIDEO, END_VIDEO = "<|begin_of_video|>", "<|end_of_video|>"
LOW_DETAIL = 512 * 512
MARKERS = (BEGIN_VIDEO, END_VIDEO, BEGIN_IMAGE, END_IMAGE, IMAGE_MARK, VIDEO_MARK)
_SPECIAL = re.compile(r"<\|(?=\w+\|>)")


def write_out(texts: Sequence[str], images: Sequence[int], videos: Sequence[tuple[int, list[str]]]) -> list[str]:
    """Prompts whose placeholders have become as many tokens as the images need, left to right over all prompts.

    images: tokens of each. videos: tokens of a frame, and the labels that follow its frames. The frames of a video
    are images of their own between its markers. Raises InputError where placeholders and images are not as many.
    """
    for mark, kind, given in ((IMAGE_MARK, "images", len(images)), (VIDEO_MARK, "videos", len(videos))):
        count = sum(text.count(mark) for text in texts)
        if count != given:
            raise InputError(
                f"The prompt has {count} placeholders {mark} and {given} {kind} were given; expected as many of both. "
                f"Write one {mark} where each belongs, or use chat(), which does."
            )
    written = {
        IMAGE_MARK: iter([IMAGE_MARK * count for count in images]),
        VIDEO_MARK: iter(
            [
                "".join(f"{BEGIN_IMAGE}{IMAGE_MARK * count}{END_IMAGE}{label}" for label in labels)
                for count, labels in videos
            ]
        ),
    }
    pattern = re.compile(f"{re.escape(IMAGE_MARK)}|{re.escape(VIDEO_MARK)}")
    return [pattern.sub(lambda found: next(written[found.group()]), text) for text in texts]


def types_by_markers(ids: Sequence[int], image: int, begin_video: int, end_video: int) -> list[int]:
    """0 text, 1 image, 2 video: frames have the id of images, and only the markers of the video tell them apart."""
    row = np.array(ids)
    inside = np.cumsum(row == begin_video) > np.cumsum(row == end_video)
    types: list[int] = np.where(row == image, np.where(inside, 2, 1), 0).tolist()
    return types


def without_markers(text: str) -> str:
    """What a model said, as it may stand in a prompt: a model can write <|image|>, and there that would be an image."""
    return _SPECIAL.sub("< |", text)


def refuse_typed(messages: Messages, tools: Tools | None) -> None:
    """Raise InputError where somebody wrote a placeholder into a chat: it would be taken for an image."""
    for text in [*texts_in(messages), json.dumps(check_tools(tools), ensure_ascii=False)]:
        if found := typed_markers(text, MARKERS):
            raise InputError(
                f"A message or tool holds the text {found[0]}, by which the model knows pictures; expected pictures as "
                'parts of the content, {"type": "image", ...}. Take it out of the text, or put a space into it.'
            )


def put_media(messages: Messages, added: Sequence[MediaPart]) -> tuple[list[Mapping[str, object]], list[MediaPart]]:
    """The messages with `added` before the text of the last message of the user, and all media in their order.

    What that message holds before its first text stays in front of them; the added parts carry no source. Raises
    InputError where no user speaks.
    """
    found, placed = parts_in(messages), list(messages)
    if not added:
        return placed, found
    places = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if not places:
        raise InputError(
            f"{len(added)} images or videos were given and no message has the role user; expected one that they belong "
            'to. Add {"role": "user", "content": "..."}.'
        )
    last, content = places[-1], messages[places[-1]]["content"]
    parts: list[Mapping[str, object]] = [{"type": "text", "text": content}]
    if isinstance(content, list | tuple):  # which `parts_in` has looked through
        parts = list(content)
    first = next((i for i, part in enumerate(parts) if part["type"] == "text"), len(parts))
    before = len(parts_in([*placed[:last], {"role": "user", "content": parts[:first]}]))
    marks = [{"type": media.kind} for media in added]
    placed[last] = {**placed[last], "content": [*parts[:first], *marks, *parts[first:]]}
    return placed, [*found[:before], *added, *found[before:]]


def part_options(media: MediaPart) -> dict[str, object]:
    """What a part of a message sets for its image or video alone. OpenAI's `detail` "low" means 512 × 512 pixels.

    Raises InputError for anything else.
    """
    given = dict(media.options)
    known = ["min_pixels", "max_pixels"] + (["fps"] if media.kind == "video" else [])
    detail = given.pop("detail", None) if media.kind == "image" else None
    odd = sorted(given.keys() - known) or [key for key in given if not is_number(given[key])]
    if odd or detail not in (None, "high", "low"):
        key = odd[0] if odd else "detail"
        raise InputError(
            f"{media.where} has {key[:QUOTED]}: {quoted(media.options[key])}; expected of {media.kind}s a number for "
            f"{', '.join(known)}{', or detail low or high' if media.kind == 'image' else ''}. Leave it out."
        )
    return {"max_pixels": LOW_DETAIL, **given} if detail == "low" else given
