"""Where every token of a prompt stands: in time, in its picture's rows and in its columns.

A text token has the same number three times. The tokens of a picture share one time and have rows and columns of
their own, so what follows stands further on by the longer side of the picture, not by the number of its tokens.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import mlx.core as mx

from mlx_mm.errors import InputError

TEXT, IMAGE, VIDEO = 0, 1, 2  # values of mm_token_type_ids
NAMES = {IMAGE: "image", VIDEO: "video"}
Positions = list[tuple[int, int, int]]


def frame_sizes(grid_thw: Any, merge: int) -> list[tuple[int, int]]:
    """Rows and columns of patches of every picture and every frame, one after the other.

    grid_thw: (n, 3) frames, rows and columns, an array or a list; None counts as empty. Raises InputError for
    numbers that cannot be a grid, or sides that `merge` patches do not divide.
    """
    sizes = []
    for row in _nested(grid_thw):
        if len(row) != 3 or row[0] < 1 or any(side < 1 or side % merge for side in row[1:]):
            raise InputError(
                f"a grid is {row}; expected frames, rows and columns of patches, with at least one frame and sides "
                f"that {merge} divides. Take pixels and grids from the processor."
            )
        sizes += [(int(row[1]), int(row[2]))] * int(row[0])
    return sizes


def rope_index(
    input_ids: Any,
    mm_token_type_ids: Any = None,
    image_grid_thw: Any = None,
    video_grid_thw: Any = None,
    attention_mask: Any = None,
    *,
    merge: int = 2,
) -> tuple[mx.array, mx.array]:
    """Positions (3, B, L) in time, rows and columns, and how far each row's next token stands from its count, (B,).

    All arguments are arrays or lists: input_ids, mm_token_type_ids (0 text, 1 image, 2 video) and attention_mask
    (non-zero = real) are (B, L), grids (n, 3) in the order in which their tokens come, row after row. Padding, on
    either side, has position 0. Token number n of a row, counted without padding, stands at n + delta once the
    prompt is over. Raises InputError where pictures and tokens do not fit.
    """
    ids = _nested(input_ids)
    types = [[TEXT] * len(row) for row in ids] if mm_token_type_ids is None else _nested(mm_token_type_ids)
    mask = [[1] * len(row) for row in ids] if attention_mask is None else _nested(attention_mask)
    if not [len(row) for row in ids] == [len(row) for row in types] == [len(row) for row in mask]:
        raise InputError(
            "input_ids, mm_token_type_ids and attention_mask differ in shape; expected (B, L) for each. "
            "Take all of them from one call of the processor."
        )
    grids = {
        IMAGE: _single(frame_sizes(image_grid_thw, merge), image_grid_thw),
        VIDEO: frame_sizes(video_grid_thw, merge),
    }
    left = {kind: iter(sizes) for kind, sizes in grids.items()}
    rows, deltas = [], []
    for row_types, row_mask in zip(types, mask, strict=True):
        found = _row([kind for kind, real in zip(row_types, row_mask, strict=True) if real], left, merge)
        places = iter(found)
        rows.append([next(places) if keep else (0, 0, 0) for keep in row_mask])
        deltas.append(max((max(place) for place in found), default=-1) + 1 - len(found))
    for kind, sizes in left.items():
        if unused := len(list(sizes)):
            raise _mismatch(f"{unused} of {len(grids[kind])} {NAMES[kind]} grids have no tokens")
    return mx.array(rows, mx.int32).transpose(2, 0, 1), mx.array(deltas, mx.int32)


def feature_rows(mm_token_type_ids: mx.array) -> mx.array:
    """For each token (B, L) its row among the features of its kind, images (1) or videos (2); -1 for text."""
    flat = mm_token_type_ids.reshape(-1)
    rows = mx.full(flat.shape, -1, mx.int32)
    for kind in NAMES:
        rows = mx.where(flat == kind, mx.cumsum((flat == kind).astype(mx.int32)) - 1, rows)
    return rows.reshape(mm_token_type_ids.shape)


def _row(types: list[int], grids: dict[int, Iterator[tuple[int, int]]], merge: int) -> Positions:
    """Of one row without its padding; takes what it needs from `grids`."""
    found: Positions = []
    current = 0
    for kind, run in groupby(types):
        length = len(list(run))
        if kind == TEXT:
            found += [(place, place, place) for place in range(current, current + length)]
            current += length
            continue
        if kind not in NAMES:
            raise _mismatch(f"mm_token_type_ids has {kind}; 0 is text, 1 an image and 2 a video")
        if (size := next(grids[kind], None)) is None:
            raise _mismatch(f"there are more runs of {NAMES[kind]} tokens than {NAMES[kind]} grids")
        rows, cols = size[0] // merge, size[1] // merge
        if length != rows * cols:
            raise _mismatch(
                f"{length} {NAMES[kind]} tokens stand in a row where the next grid, {size[0]}×{size[1]} patches, has "
                f"{rows * cols}"
            )
        found += [(current, current + row, current + col) for row in range(rows) for col in range(cols)]
        current += max(rows, cols)
    return found


def _single(sizes: list[tuple[int, int]], grid_thw: Any) -> list[tuple[int, int]]:
    if len(sizes) != len(_nested(grid_thw)):
        raise InputError(
            "image_grid_thw has a picture of more than one frame; expected 1, rows and columns. "
            "Pass videos as video_grid_thw."
        )
    return sizes


def _mismatch(found: str) -> InputError:
    return InputError(
        f"{found}; expected one run of tokens for each picture and each frame of a video, with another token between "
        "two runs. Take input_ids, mm_token_type_ids and grids from one call of the processor."
    )


def _nested(values: Any) -> list[Any]:
    """Nested lists of an array; of None an empty one."""
    lists: Any = values.tolist() if isinstance(values, mx.array) else values
    return [] if lists is None else list(lists)
