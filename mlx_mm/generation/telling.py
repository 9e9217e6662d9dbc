"""From the tokens of an answer to its pieces, up to where it ends."""

from collections.abc import Callable
from dataclasses import replace

from mlx_mm.generation.answer import Clock, Generation
from mlx_mm.generation.response import Listener

Boxes = list[list[float]]


class Teller:
    """Takes the tokens of one answer. over: one of them ended it, and no more are to be given.

    stop_ids: tokens that end it. in_pixels: boxes as the model counts -> in pixels of the only image, or none.
    """

    def __init__(
        self, listener: Listener, stop_ids: frozenset[int], in_pixels: Callable[[Boxes], Boxes], clock: Clock
    ) -> None:
        self.over = False
        self.clock = clock
        self._listener, self._stop_ids, self._in_pixels = listener, stop_ids, in_pixels
        self._called = False

    def take(self, token: int) -> Generation | None:
        """What a token adds; None for one that ends the answer and adds nothing."""
        self.clock.tick()
        if token in self._stop_ids:
            self.over = True
            return None
        delta = self._listener.hear(token)
        self._called = self._called or bool(delta.tool_calls)
        self.over = self._listener.stopped
        return self.clock.piece(delta)

    def end(self) -> Generation:
        """The last piece, with the reason for the end."""
        delta = self._listener.finish()
        stopped = self.over or self._listener.stopped
        called = self._called or bool(delta.tool_calls)
        boxes = self._listener.boxes()
        reason = "length" if not stopped else "tool_calls" if called else "stop"
        return replace(self.clock.piece(delta), finish_reason=reason, boxes=boxes, pixel_boxes=self._in_pixels(boxes))
