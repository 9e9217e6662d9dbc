"""Where every token of a prompt stands: in time, in its image's rows and in its columns.

A text token has the same number three times. The tokens of an image, or of one frame of a video, share one time and
have rows and columns of their own, so what follows stands further on by the longer side of the image, not by the
number of its tokens. All of it is arithmetic of whole numbers, and needs no array.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mlx_mm.errors import InputError

TEXT, IMAGE, VIDEO = 0, 1, 2  # values of mm_token_type_ids
NAMES = {IMAGE: "image", VIDEO: "video"}

Nested = Sequence[Sequence[int]]  # (B, L) or (n, 3)
Position = tuple[int, int, int]
Size = tuple[int, int]  # rows and columns, of patches


@dataclass(frozen=True)
class Span:
    """The tokens of an image or of one frame of a video, and which of the patches of its kind are its own.

    row and first_token: of the batch, with padding; tokens: how many.
    """

    kind: int
    first_patch: int
    size: Size
    row: int
    first_token: int
    tokens: int

    @property
    def patches(self) -> int:
        """How many they are."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class Layout:
    """positions: (B, L, 3) time, row and column of each token, padding at 0. deltas: (B,) how far each row's next
    token stands from its count: token number n of a row, counted without padding, stands at n + delta once the prompt
    is over. spans: in the order of their tokens.
    """

    positions: list[list[Position]]
    deltas: list[int]
    spans: list[Span]


def frame_sizes(grid_thw: Nested | None, merge: int) -> list[Size]:
    """Rows and columns of patches of every image and every frame, one after the other.

    grid_thw: (n, 3) frames, rows and columns; None counts as empty. Raises InputError for numbers that cannot be a
    grid, or sides that `merge` patches do not divide.
    """
    sizes: list[Size] = []
    for row in grid_thw or ():
        if len(row) != 3 or row[0] < 1 or any(side < 1 or side % merge for side in row[1:]):
            raise InputError(
                f"a grid is {list(row)}; expected frames, rows and columns of patches, with at least one frame and "
                f"sides that {merge} divides. Take pixels and grids from the processor."
            )
        sizes += [(row[1], row[2])] * row[0]
    return sizes


def types_by_id(input_ids: Nested, image_token_id: int, *, videos: bool) -> list[list[int]]:
    """mm_token_type_ids where nobody gave them: one id stands for images and for frames, of which there is one kind."""
    kind = VIDEO if videos else IMAGE
    return [[kind if token == image_token_id else TEXT for token in row] for row in input_ids]


def rope_index(
    mm_token_type_ids: Nested,
    image_grid_thw: Nested | None = None,
    video_grid_thw: Nested | None = None,
    attention_mask: Nested | None = None,
    *,
    merge: int = 2,
) -> Layout:
    """The layout of prompts, by transformers' rule of that name.

    mm_token_type_ids (0 text, 1 image, 2 video) and attention_mask (non-zero = real; padding on either side) are
    (B, L), grids (n, 3) in the order in which their tokens come, row after row. Raises InputError where images, videos
    and tokens do not fit.
    """
    mask = [[1] * len(row) for row in mm_token_type_ids] if attention_mask is None else attention_mask
    if [len(row) for row in mm_token_type_ids] != [len(row) for row in mask]:
        raise InputError(
            "input_ids, mm_token_type_ids and attention_mask differ in shape; expected (B, L) for each. "
            "Take all of them from one call of the processor."
        )
    images = frame_sizes(image_grid_thw, merge)
    if len(images) != len(image_grid_thw or ()):
        raise InputError(
            "image_grid_thw has a picture of more than one frame; expected 1, rows and columns. "
            "Pass videos as video_grid_thw."
        )
    walk = _Walk({IMAGE: images, VIDEO: frame_sizes(video_grid_thw, merge)}, merge)
    rows = [walk.row(row, types, real) for row, (types, real) in enumerate(zip(mm_token_type_ids, mask, strict=True))]
    walk.finish()
    return Layout([positions for positions, _ in rows], [delta for _, delta in rows], walk.spans)


class _Walk:
    """Goes through the rows of a batch, and takes the grids as their tokens come."""

    def __init__(self, sizes: dict[int, list[Size]], merge: int) -> None:
        self.spans: list[Span] = []
        self._merge = merge
        self._given = {kind: len(all_of_kind) for kind, all_of_kind in sizes.items()}
        self._sizes = {kind: iter(all_of_kind) for kind, all_of_kind in sizes.items()}
        self._patches = dict.fromkeys(sizes, 0)

    def row(self, number: int, types: Sequence[int], mask: Sequence[int]) -> tuple[list[Position], int]:
        """Positions of one row, and its delta."""
        positions: list[Position] = [(0, 0, 0)] * len(types)
        current = count = 0
        for kind, places in _runs(types, mask):
            count += len(places)
            if kind == TEXT:
                line = range(current, current + len(places))
                positions[places.start : places.stop] = [(place, place, place) for place in line]
                current = line.stop
                continue
            rows, cols = self._take(kind, number, places)
            cells = [(current, current + row, current + col) for row in range(rows) for col in range(cols)]
            positions[places.start : places.stop] = cells
            current += max(rows, cols)
        return positions, current - count

    def _take(self, kind: int, row: int, places: range) -> Size:
        """Rows and columns of the tokens that stand at `places`."""
        if kind not in NAMES:
            raise _mismatch(f"mm_token_type_ids has {kind}; 0 is text, 1 an image and 2 a video")
        if (size := next(self._sizes[kind], None)) is None:
            raise _mismatch(f"there are more runs of {NAMES[kind]} tokens than {NAMES[kind]} grids")
        rows, cols = size[0] // self._merge, size[1] // self._merge
        if len(places) != rows * cols:
            raise _mismatch(
                f"{len(places)} {NAMES[kind]} tokens stand in a row where the next grid, {size[0]}×{size[1]} patches, "
                f"has {rows * cols}"
            )
        self.spans.append(Span(kind, self._patches[kind], size, row, places.start, len(places)))
        self._patches[kind] += size[0] * size[1]
        return rows, cols

    def finish(self) -> None:
        """Raise InputError where a grid was not taken."""
        for kind, sizes in self._sizes.items():
            if unused := len(list(sizes)):
                raise _mismatch(f"{unused} of {self._given[kind]} {NAMES[kind]} grids have no tokens")


def _runs(types: Sequence[int], mask: Sequence[int]) -> Iterator[tuple[int, range]]:
    """Runs of equal types among the real tokens of a row, and where they stand."""
    place = 0
    for (kind, real), run in groupby(zip(types, map(bool, mask), strict=True)):
        end = place + sum(1 for _ in run)
        if real:
            yield kind, range(place, end)
        place = end


def _mismatch(found: str) -> InputError:
    return InputError(
        f"{found}; expected one run of tokens for each picture and each frame of a video, with another token between "
        "two runs. Take input_ids, mm_token_type_ids and grids from one call of the processor."
    )
