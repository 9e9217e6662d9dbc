"""/v1/chat/completions: an answer in OpenAI's shape, at once or in chunks."""

from __future__ import annotations

import contextlib
import time
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_mm.generation.answer import Generation
from mlx_mm.server.chat_requests import CHAT, Asked, read_chat
from mlx_mm.server.engine import Engine
from mlx_mm.server.media import Reader
from mlx_mm.server.reading import read_json
from mlx_mm.server.streams import event, stream
from mlx_mm.server.tickets import Done, Ticket
from mlx_mm.server.waiting import Line


def reader_of(request: Request) -> Reader:
    """What reads the media of a request."""
    return Reader(request.app.state.media, request.state.known)


def ask_engine(request: Request, asked: Asked) -> Ticket[Generation]:
    """Put the question; raises what `Engine.chat` does."""
    engine: Engine = request.app.state.engine
    return engine.chat(asked.model, asked.messages, tools=asked.tools, **asked.options)


async def complete_chat(request: Request) -> Response:
    """POST /v1/chat/completions."""
    asked = await read_chat(await read_json(request, CHAT), reader_of(request))
    ticket = ask_engine(request, asked)
    line = Line(request)
    if asked.stream:
        return await stream(line, ticket, Chunks(asked))
    with contextlib.closing(line):
        return JSONResponse(_whole(asked, await line.result(ticket)))


def usage_of(done: Done[Generation]) -> dict[str, object]:
    """Tokens of a prompt and its answer."""
    prompt, answer = done.prompt_tokens, done.result.generation_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": done.result.cached_tokens, "image_tokens": done.media_tokens},
        "completion_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
    }


def boxes_of(answer: Generation) -> dict[str, object]:
    """Places in a picture that an answer names: our own addition to OpenAI's shape."""
    return {"mlx_mm": {"boxes": answer.boxes, "pixel_boxes": answer.pixel_boxes}} if answer.boxes else {}


def _whole(asked: Asked, done: Done[Generation]) -> dict[str, object]:
    answer = done.result
    message: dict[str, object] = {"role": "assistant", "content": answer.text}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message |= {"tool_calls": answer.tool_calls, "content": answer.text or None}
    return {
        "id": _identity(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}],
        "usage": usage_of(done),
        **boxes_of(answer),
    }


def _identity() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


class Chunks:
    """An answer in chunks of /v1/chat/completions."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._calls = asked, 0
        self._head = {
            "id": _identity(),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": asked.model,
        }

    def begin(self) -> list[str]:
        """Whose words they are."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def piece(self, piece: Generation) -> list[str]:
        """Reasoning, words and calls; of a call its name first, then its arguments."""
        texts = []
        if piece.reasoning:
            texts.append(self._chunk({"reasoning_content": piece.reasoning}))
        if piece.text:
            texts.append(self._chunk({"content": piece.text}))
        for call in piece.tool_calls:
            function, index = call["function"], self._calls
            begun = {**call, "index": index, "function": {"name": function["name"], "arguments": ""}}
            rest = {"index": index, "function": {"arguments": function["arguments"]}}
            texts += [self._chunk({"tool_calls": [delta]}) for delta in (begun, rest)]
            self._calls += 1
        return texts

    def end(self, done: Done[Generation]) -> list[str]:
        """Why it ended, and the tokens where they are asked for."""
        last = self._chunk({}, done.result.finish_reason, boxes_of(done.result))
        usage = [event({**self._head, "choices": [], "usage": usage_of(done)})] if self._asked.usage else []
        return [last, *usage, "data: [DONE]\n\n"]

    def fail(self, error: dict[str, dict[str, str | None]]) -> list[str]:
        """The error, as OpenAI's client reads it."""
        return [event(error)]

    def _chunk(self, delta: dict[str, object], reason: str | None = None, more: dict[str, object] | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return event({**self._head, "choices": [choice], **(more or {})})
