"""/v1/responses: an answer in the newer of OpenAI's shapes, at once or as events."""

from __future__ import annotations

import contextlib
import time
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_mm.generation.answer import Generation
from mlx_mm.generation.response import ToolCall
from mlx_mm.server.chat_requests import Asked, read_chat
from mlx_mm.server.chat_routes import ask_engine, boxes_of, reader_of
from mlx_mm.server.reading import JsonObject, read_json
from mlx_mm.server.responses_requests import RESPONSES, as_chat, by_item
from mlx_mm.server.streams import event, stream
from mlx_mm.server.tickets import Done
from mlx_mm.server.waiting import Line

_PARTS = {"message": "output_text", "reasoning": "reasoning_text"}
_MORE: dict[str, dict[str, object]] = {"message": {"logprobs": []}, "reasoning": {}}  # in events of a part


async def create_response(request: Request) -> Response:
    """POST /v1/responses."""
    body = await read_json(request, RESPONSES)
    chat, places = as_chat(body)
    with by_item(places):
        asked = await read_chat(chat, reader_of(request))
        ticket, line = ask_engine(request, asked), Line(request)
        events = Events(asked, body)
        if asked.stream:
            return await stream(line, ticket, events)
        with contextlib.closing(line):
            return JSONResponse(events.whole(await line.result(ticket)))


class Events:
    """An answer in events of /v1/responses, and the whole of it."""

    def __init__(self, asked: Asked, body: JsonObject) -> None:
        self._count, self._open, self._items = 0, "", list[dict[str, object]]()
        self._text = self._identity = ""  # of the item that is open
        self._head: dict[str, object] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": asked.model,
            "instructions": body.get("instructions"),
            "tools": body.get("tools", []),
            "tool_choice": body.get("tool_choice", "auto"),
            "parallel_tool_calls": True,
            "temperature": body.get("temperature"),
            "top_p": body.get("top_p"),
            "max_output_tokens": body.get("max_output_tokens"),
            "previous_response_id": None,
            "store": False,
            "metadata": {},
            "error": None,
            "incomplete_details": None,
        }

    def whole(self, done: Done[Generation]) -> dict[str, object]:
        """All of it."""
        answer = done.result
        items = [_item("reasoning", answer.reasoning)] if answer.reasoning else []
        items += [_item("message", answer.text)] if answer.text or not answer.tool_calls else []
        return self._response(done, [*items, *map(_call, answer.tool_calls)])

    def begin(self) -> list[str]:
        """That it has begun."""
        begun = {**self._head, "status": "in_progress", "output": [], "usage": None}
        return [self._event("response.created", response=begun), self._event("response.in_progress", response=begun)]

    def piece(self, piece: Generation) -> list[str]:
        """Reasoning, words, and calls each with its arguments in one."""
        texts = []
        for kind, text in (("reasoning", piece.reasoning), ("message", piece.text)):
            if text:
                texts += self._begin(kind)
                self._text += text
                texts.append(self._event(f"response.{_PARTS[kind]}.delta", **self._place(), delta=text, **_MORE[kind]))
        for call in piece.tool_calls:
            texts += self._close()
            item, place = _call(call), len(self._items)
            told = {"item_id": item["id"], "output_index": place}
            arguments = item["arguments"]
            begun = {**item, "arguments": "", "status": "in_progress"}
            texts += [
                self._event("response.output_item.added", output_index=place, item=begun),
                self._event("response.function_call_arguments.delta", **told, delta=arguments),
                self._event("response.function_call_arguments.done", **told, name=item["name"], arguments=arguments),
                self._event("response.output_item.done", output_index=place, item=item),
            ]
            self._items.append(item)
        return texts

    def end(self, done: Done[Generation]) -> list[str]:
        """The end, and the whole of it."""
        said = self._open == "message" or any(item["type"] != "reasoning" for item in self._items)
        texts = [*([] if said else self._begin("message")), *self._close()]
        response = self._response(done, self._items)
        return [*texts, self._event(f"response.{response['status']}", response=response)]

    def fail(self, error: dict[str, dict[str, str | None]]) -> list[str]:
        """The error."""
        told = error["error"]
        return [self._event("error", code=told["code"], message=told["message"], param=told["param"])]

    def _response(self, done: Done[Generation], output: list[dict[str, object]]) -> dict[str, object]:
        answer = done.result
        cut = answer.finish_reason == "length"
        return {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
            "usage": {
                "input_tokens": done.prompt_tokens,
                "input_tokens_details": {"cached_tokens": answer.cached_tokens},
                "output_tokens": answer.generation_tokens,
                "output_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
                "total_tokens": done.prompt_tokens + answer.generation_tokens,
            },
            **boxes_of(answer),
        }

    def _begin(self, kind: str) -> list[str]:
        """Open an item, unless one of its kind is."""
        if self._open == kind:
            return []
        texts = self._close()
        item = _item(kind, "")
        self._open, self._text, self._identity = kind, "", str(item["id"])
        return [
            *texts,
            self._event(
                "response.output_item.added",
                output_index=len(self._items),
                item={**item, "status": "in_progress", "content": []},
            ),
            self._event("response.content_part.added", **self._place(), part=_part(kind, "")),
        ]

    def _close(self) -> list[str]:
        """Close the item that is open."""
        kind, text = self._open, self._text
        if not kind:
            return []
        item = _item(kind, text, self._identity)
        texts = [
            self._event(f"response.{_PARTS[kind]}.done", **self._place(), text=text, **_MORE[kind]),
            self._event("response.content_part.done", **self._place(), part=_part(kind, text)),
            self._event("response.output_item.done", output_index=len(self._items), item=item),
        ]
        self._items.append(item)
        self._open = ""
        return texts

    def _place(self) -> dict[str, object]:
        return {"item_id": self._identity, "output_index": len(self._items), "content_index": 0}

    def _event(self, kind: str, /, **values: object) -> str:
        self._count += 1
        return event({"type": kind, "sequence_number": self._count - 1, **values}, kind)


def _part(kind: str, text: str) -> dict[str, object]:
    more: dict[str, object] = {"annotations": [], "logprobs": []} if kind == "message" else {}
    return {"type": _PARTS[kind], "text": text, **more}


def _item(kind: str, text: str, identity: str | None = None) -> dict[str, object]:
    more: dict[str, object] = {"role": "assistant"} if kind == "message" else {"summary": []}
    prefix = "msg" if kind == "message" else "rs"
    return {
        "id": identity or f"{prefix}_{uuid.uuid4().hex}",
        "type": kind,
        **more,
        "status": "completed",
        "content": [_part(kind, text)],
    }


def _call(call: ToolCall) -> dict[str, object]:
    return {
        "id": f"fc_{uuid.uuid4().hex}",
        "type": "function_call",
        "status": "completed",
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": call["function"]["arguments"],
    }
