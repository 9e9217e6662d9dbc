"""What a client is told of an error: a status, and JSON in OpenAI's shape that names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlx_mm.errors import BusyError, InputError, MediaError, MlxMmError, ModalityError, RanksError
from mlx_mm.server.tickets import Broken, EngineDead, QueueFull, Refused, TooLong, UnknownModel

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# A message that begins with the place of what it is about, as those of `processing` do.
_PLACE = re.compile(
    r"(?:The )?((?:messages|tools|input|inputs|labels)(?:\[\d+\]|\.\w+)*|temperature|top_p|top_k|min_p|seed"
    r"|repetition_penalty|stop|max_tokens|max_pixels|fps|task|dim|enable_thinking|thinking_budget|template)(?=[\s=])"
)
_NAMES = {"dim": "dimensions"}  # an option of ours -> the field of a request


class Problem(MlxMmError):  # noqa: N818
    """A request that is refused. status: of HTTP. param: the field it is about. code: a word for programs. headers: of
    the response."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def body(self) -> dict[str, dict[str, str | None]]:
        """{"error": {"message", "type", "param", "code"}}."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


def problem_of(error: MlxMmError) -> Problem:
    """The status and the words of an error: 4xx where the client can mend it, 5xx where it cannot."""
    if isinstance(error, Problem):
        return error
    message = str(error)
    if isinstance(error, QueueFull):
        return Problem(message, 429, code="queue_full", headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, UnknownModel):
        return Problem(message, 404, param="model", code="model_not_found")
    if isinstance(error, TooLong):
        return Problem(message, 400, param="messages", code="context_length_exceeded")
    if isinstance(error, EngineDead | RanksError):
        return Problem(message, 503, code="engine_dead")
    if isinstance(error, Broken):
        return Problem(message, 500, code="broken")
    if isinstance(error, InputError | MediaError | ModalityError | Refused):
        found = _PLACE.match(message)
        param = found and _NAMES.get(found[1], found[1])
        if isinstance(error.place, str):
            param, message = param or error.place, f"{error.place}: {message}"
        if isinstance(error, ModalityError):
            param = "model"
        return Problem(message, param=param, code="invalid_media" if isinstance(error, MediaError) else "invalid_value")
    return Problem(message, 503 if isinstance(error, BusyError) else 500)


async def answer_error(_: Request, error: Exception) -> Response:
    """Of an error of ours that a route raised."""
    assert isinstance(error, MlxMmError)
    return problem_of(error).response()


async def answer_http(request: Request, error: Exception) -> Response:
    """Of an address or a method that no route has."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    words = {404: "is no address of this server", 405: "is no method of this address"}
    message = f"{where} {words.get(error.status_code, error.detail)}; expected one of /openapi.json. Change it."
    return Problem(message, error.status_code, code="not_found", headers=error.headers).response()


async def answer_bug(_: Request, error: Exception) -> Response:
    """Of what nobody foresaw: its words stay in the log."""
    return Problem(
        f"The server has failed ({type(error).__name__}); expected no such error. See its log.", 500, code="bug"
    ).response()
