"""Chats of the stub, "user: …", to bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from mlx_mm.models.stub_vlm.config import END, END_THINK, IMAGE, IMAGE_TOKENS, PATCH_DIMS, THINK, ModelConfig
from mlx_mm.models.stub_vlm.response import CLOSE, OPEN, Parser

from mlx_mm.errors import InputError
from mlx_mm.generation.defaults import GenerationDefaults, read_generation_config
from mlx_mm.models.contracts import Modality
from mlx_mm.processing.batch import Batch, as_list
from mlx_mm.processing.chat import Messages, fill_media, for_template, media_in
from mlx_mm.processing.image import ImageSource, open_image
from mlx_mm.processing.video import VideoSource

MARK = "[img]"
ONE = (str, bytes, np.ndarray)
TEXTS = {IMAGE: MARK, THINK: OPEN, END_THINK: CLOSE}


class Processor:
    """Bytes are tokens, and an image is 16 × 16 pixels."""

    kind: Literal["chat"] = "chat"
    modalities: tuple[Modality, ...] = ("text", "image")

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        sampling, stop_ids = read_generation_config(folder)
        self.defaults = GenerationDefaults(sampling, stop_ids | {END}, (THINK, END_THINK), config.max_length, 32)

    def encode(self, text: str) -> list[int]:
        """Ids of a text with markers."""
        ids = text.encode().replace(MARK.encode(), b"\xff")
        return [IMAGE if byte == 0xFF else byte for byte in ids]

    def chat(
        self,
        messages: Messages,
        *,
        images: ImageSource | Sequence[ImageSource] = (),
        videos: VideoSource | Sequence[VideoSource] = (),
        tools: Sequence[Mapping[str, object]] | None = None,
        enable_thinking: bool | None = None,
        fps: float | None = None,
        max_pixels: int | None = None,
    ) -> Batch:
        if videos or tools or fps or max_pixels:
            raise InputError("videos, tools, fps or max_pixels are given, and the stub has none. Leave them out.")
        messages, more = fill_media(messages, "image", as_list(images, "images", ONE) if images else [])
        added = list(more)
        sources, prompt = [*(part.source for part in media_in(messages)), *added], ""
        for message in for_template(messages):
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)  # type: ignore[call-overload]
            marks = [MARK * IMAGE_TOKENS if part["type"] == "image" else str(part["text"]) for part in parts]
            prompt += f"{message['role']}: {''.join(marks)}\n"
        prompt += (
            MARK * IMAGE_TOKENS * len(added) + "assistant: " + (f"{OPEN}{CLOSE}" if enable_thinking is False else "")
        )
        batch: Batch = {"input_ids": np.array([self.encode(prompt)], np.int32)}
        if sources:
            pixels = [np.asarray(open_image(source).resize((16, 16)), np.float32) / 255 for source in sources]
            blocks = np.stack(pixels).reshape(-1, 2, 8, 2, 8, 3).swapaxes(2, 3)
            batch["pixel_values"] = blocks.reshape(-1, IMAGE_TOKENS, PATCH_DIMS)
        return batch

    def response(self, prompt_ids: Sequence[int], *, tools: Sequence[Mapping[str, object]] | None = None) -> Parser:
        return Parser(reasoning_open=self.decode(prompt_ids[-2:], skip_special_tokens=False) == OPEN)

    def without_markers(self, text: str) -> str:
        return text.replace(MARK, "[ img]")

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        raw = b"".join(TEXTS[token].encode() if token in TEXTS else bytes([token % 256]) for token in ids)
        return raw.decode("utf-8", "replace")

    def image_sizes(
        self, messages: Messages, *, images: ImageSource | Sequence[ImageSource] = ()
    ) -> list[tuple[int, int]]:
        messages, added = fill_media(messages, "image", as_list(images, "images", ONE) if images else [])
        sources = [*(part.source for part in media_in(messages)), *added]
        return [(image.height, image.width) for image in map(open_image, sources)]

    def count_tokens(
        self,
        *,
        images: ImageSource | Sequence[ImageSource] = (),
        videos: VideoSource | Sequence[VideoSource] = (),
    ) -> dict[str, list[int]]:
        return {"images": [IMAGE_TOKENS] * len(as_list(images, "images", ONE)), "videos": []}
