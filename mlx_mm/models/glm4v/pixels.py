"""The arithmetic between images and the tokens they cost: sizes, patches, frames and their times.

Sizes are (height, width). A grid is (t, h, w) in patches; a token stands for merge_size × merge_size of them.
"""

import math

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import InputError

HIGHEST_RATIO = 200  # of the longer side to the shorter one

# GLM-4.6V takes more frames of short videos: up to a duration in seconds, so many pairs of them per second.
_PAIRS_PER_SECOND = ((30, 3), (300, 1), (2400, 0.5))
_LONGEST_SECONDS = 2400
_MOST_FRAMES = 640


def smart_resize(
    frames: int, height: int, width: int, shortest_edge: int, longest_edge: int, *, factor: int = 28, temporal: int = 2
) -> tuple[int, int]:
    """The size nearest to (height, width) whose sides `factor` divides and which costs neither too much nor too little.

    frames: of a video, `temporal` for an image. shortest_edge, longest_edge: despite Hugging Face's names the least
    and the most of frames × height × width. Step for step what transformers does in float64, with Python's rounding
    of halves to even numbers, because one pixel decides about a row of tokens.
    Raises InputError for a video of fewer than `temporal` frames and for sides that differ more than 200 times.
    """
    if frames < temporal:
        raise InputError(
            f"A video has {frames} frame; expected at least {temporal}. Leave do_sample_frames on, or pass the frame "
            "as an image."
        )
    given = height, width
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > HIGHEST_RATIO:
        ratio = max(given) / min(given)
        raise InputError(
            f"A picture of {given[0]}x{given[1]} is too long for this model, its aspect ratio is {ratio}; expected at "
            f"most {HIGHEST_RATIO}. Cut it into parts."
        )
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    cost = round(frames / temporal) * temporal * rows * columns
    if cost > longest_edge:
        shrink = math.sqrt((frames * height * width) / longest_edge)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif cost < shortest_edge:
        grow = math.sqrt(shortest_edge / (frames * height * width))
        rows, columns = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rows, columns


def to_patches(frames: npt.NDArray[np.float32], patch: int, merge: int) -> npt.NDArray[np.float32]:
    """(T, H, W, C) of one temporal slice to (h·w, C·T·patch·patch).

    Patches of a token follow each other: (block row, block column, row in block, column in block). In a patch
    (channel, frame, row, column), the order of the convolution's weight.
    """
    count, height, width, channels = frames.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    blocks: npt.NDArray[np.float32] = frames.reshape(count, rows, merge, patch, columns, merge, patch, channels)
    blocks = blocks.transpose(1, 4, 2, 5, 7, 0, 3, 6)
    return blocks.reshape(rows * columns * merge * merge, channels * count * patch * patch)


def sample_by_duration(total: int, fps: float, duration: float | None, temporal: int = 2) -> list[int]:
    """Frames of GLM-4.6V: six a second of videos up to 30 s, two up to 5 minutes, then one, and 640 at most.

    total: frames of the video, at `fps`. The sums of steps are float64 as in transformers, which moves frames by one.
    One difference: a video too short for a single frame gives its first, where transformers gives none.
    """
    duration = duration or round((total - 1) / fps) + 1
    pairs = next((rate for limit, rate in _PAIRS_PER_SECOND if duration <= limit), _PAIRS_PER_SECOND[-1][1])
    wanted = min(int(min(duration, _LONGEST_SECONDS) * pairs * temporal), _MOST_FRAMES)
    if total < wanted:
        indices = _spread(0, total - 1, wanted)
    else:
        indices = _at_steps(total, 1 / fps, 1 / (temporal * pairs), int(duration))
    if len(indices) < wanted:
        indices = _spread(indices[0], indices[-1], wanted)
    elif len(indices) > wanted:
        indices = _spread(0, total - 1, wanted)
    return _even(indices or [0])


def sample_by_rate(total: int, fps: float, duration: float | None, rate: float, longest: float) -> list[int]:
    """Frames of GLM-4.1V and 4.5V: `rate` per second; of videos longer than `longest` seconds as many as these have."""
    last = total - 1
    duration = duration or round(last / fps) + 1
    if duration <= longest:
        count = max(math.floor(duration * rate), 1)
        return _even([min(last, math.ceil(i * fps / rate)) for i in range(count)])
    count = int(longest * rate)
    if count >= total:
        return _even(list(range(total)))
    return _even([min(last, math.ceil(t * fps)) for t in np.linspace(0, duration, count)])


def slice_times(indices: list[int], fps: float, temporal: int = 2) -> list[float]:
    """Seconds of the first frame in each temporal slice."""
    return [index / fps for index in indices[::temporal]]


def _at_steps(total: int, frame: float, step: float, end: int) -> list[int]:
    """The first frame at or after 0, step, 2·step, … seconds, until `end`; `frame` is the length of one."""
    indices, following = [], 0.0
    for i in range(total):
        if i * frame >= following:
            following += step
            indices.append(i)
            if following >= end:
                break
    return indices


def _spread(first: int, last: int, count: int) -> list[int]:
    found: list[int] = np.linspace(first, last, count, dtype=int).tolist()
    return found


def _even(indices: list[int]) -> list[int]:
    """Without repeats, but an even number."""
    indices = list(dict.fromkeys(indices))
    return indices + indices[-1:] * (len(indices) % 2)
