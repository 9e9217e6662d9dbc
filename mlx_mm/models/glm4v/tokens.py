"""Prompts, whose images and videos are measured, to token ids, and these to a batch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import ConfigError, InputError, LengthError, shown
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.media import MeasuredImage, MeasuredVideo
from mlx_mm.models.glm4v.prompt import IMAGE_MARK, MARKERS, VIDEO_MARK, types_by_markers, write_out
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.text import Tokenizer


class TokenRows:
    """The tokenizer of a checkpoint, held against its config.json."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer

    def rows(
        self, texts: list[str], images: Sequence[MeasuredImage], videos: Sequence[MeasuredVideo]
    ) -> list[list[int]]:
        """Token ids of prompts whose placeholders are written out."""
        self._check_tokens()
        tokens = self._config.vision_config.spatial_merge_size**2
        texts = write_out(texts, [item.tokens(tokens) for item in images], [item.tokens(tokens) for item in videos])
        rows = [self._tokenizer.encode_prompt(text) for text in texts]
        limit, size = self._config.text_config.max_position_embeddings, self._config.text_config.vocab_size
        for row in rows:
            if not 0 < len(row) <= limit:
                shown = row.count(self._config.image_token_id)
                raise LengthError(
                    f"A prompt has {len(row)} tokens, {shown} of them for pictures; expected 1 to {limit}, the "
                    "positions this model has. Shorten it, or pass fewer pictures or a lower max_pixels."
                )
            if max(row) >= size:
                raise ConfigError(
                    f"{self._tokenizer.path} gave the id {max(row)}; expected ids for the {size} rows of the model's "
                    "table. Use the tokenizer and the config.json of one checkpoint."
                )
        return rows

    def _check_tokens(self) -> None:
        """Hold the tokenizer against config.json: a mismatch would give nonsense without an error."""
        expected = {IMAGE_MARK: self._config.image_token_id, VIDEO_MARK: self._config.video_token_id}
        for mark in MARKERS:
            found = self._tokenizer.encode_prompt(mark)
            if len(found) != 1 or found[0] != expected.get(mark, found[0]):
                wanted = f"the id {expected[mark]}" if mark in expected else "a single token"
                raise ConfigError(
                    f"{self._tokenizer.path} turns {mark} into {found}; expected {wanted}. Use the tokenizer and the "
                    "config.json of one checkpoint."
                )

    def pad(self, rows: Sequence[Sequence[int]], padding: bool | str, side: str) -> Batch:
        """One batch of them; padding: "longest", or True, on the "left" or "right"."""
        longest = padding is True or (isinstance(padding, str) and padding == "longest")
        if not longest or not isinstance(side, str) or side not in ("left", "right"):
            raise InputError(
                f'padding is {shown(padding)} on side {shown(side)}; expected "longest" on "left" or "right". Leave it '
                "out."
            )
        pad = self._tokenizer.pad_id if self._config.pad_token_id is None else self._config.pad_token_id
        if pad >= (size := self._config.text_config.vocab_size):
            raise ConfigError(
                f"The padding has the id {pad}; expected one of the {size} rows of the model's table. "
                "Use the tokenizer and the config.json of one checkpoint."
            )
        markers = [self._tokenizer.encode_prompt(mark)[0] for mark in MARKERS[:2]]
        types = [types_by_markers(row, self._config.image_token_id, *markers) for row in rows]
        masks = [[1] * len(row) for row in rows]
        return {
            "input_ids": _padded(rows, pad, side),
            "attention_mask": _padded(masks, 0, side),
            "mm_token_type_ids": _padded(types, 0, side),
        }


def _padded(rows: Sequence[Sequence[int]], value: int, side: str) -> npt.NDArray[np.int32]:
    result = np.full((len(rows), max(map(len, rows))), value, np.int32)
    for line, row in zip(result, rows, strict=True):
        if side == "left":
            line[len(line) - len(row) :] = row
        else:
            line[: len(row)] = row
    return result
