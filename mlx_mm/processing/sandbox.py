"""Where chat templates run: Jinja as transformers sets it up, without files and Python's own attributes.

This is the inner wall; the outer one is the process around it, see `template_process`, which imports this file and
little else.
"""

import contextlib
import functools
import json
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mlx_mm.errors import ConfigError, InputError, foreign, reason

# A template comes with a checkpoint and is not trusted: it may not run for ever either.
MAX_SECONDS = 5.0
MAX_CHARACTERS = 2**24
MAX_BITS = 2**16
COMPILED = 8  # templates that are kept

UNREADABLE = "cannot be read", "expected a Jinja template. Take the checkpoint's own file again."
FAILING = (
    "fails on these messages",
    "expected text. Take the checkpoint's own file, or give fewer kinds of message.",
)


def render(source: str, values: Mapping[str, object] | None, *, name: str, seconds: float) -> str:
    """What a template writes; "" where there are no values, which only compiles it.

    name: what errors call it. Raises ConfigError for a template that cannot be compiled, or fails on these values, and
    InputError where it refuses them.
    """
    with _failing(name, *UNREADABLE):
        environment, template = _compiled(source)
    if values is None:
        return ""
    with _failing(name, *FAILING):
        try:
            return environment.run(template, values, seconds)
        except RefusedError as error:
            raise InputError(
                f"{name} refuses these messages: {reason(error)}. Expected a chat as this model has it. "
                "Change the messages."
            ) from error


@contextlib.contextmanager
def _failing(name: str, found: str, advice: str) -> Iterator[None]:
    with foreign(ConfigError, f"{name} {found}", advice):
        try:
            yield
        except (MemoryError, jinja2.TemplateSyntaxError) as error:
            why = "it needs more memory than it may have"
            if isinstance(error, jinja2.TemplateSyntaxError):
                why = f"line {error.lineno}: {reason(error)}"
            raise ConfigError(f"{name} {found} ({why}); {advice}") from error


@functools.lru_cache(COMPILED)
def _compiled(source: str) -> "tuple[Sandbox, jinja2.Template]":
    environment = Sandbox()
    return environment, environment.compiled(source)


class RefusedError(Exception):
    """What a template says with raise_exception()."""


class _Names(Namespace):
    """namespace() without names that begin with "_", as transformers has it: they could reach Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Generation(Extension):
    """{% generation %}…{% endgeneration %}, with which transformers marks answers for training: shown as they are."""

    tags = {"generation"}  # noqa: RUF012  # the name and the kind that jinja2 wants

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up, with limits on time, length and numbers.

    No files (there is no loader), no attributes that begin with "_", no changing of what it is given. Memory is
    bounded only for what is written out and for * and **, and time only between the steps of a template: these limits
    stop accidents and the simple attacks, and say in better words what the process around them would.
    """

    intercepted_binops = frozenset(("*", "**"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
        self.filters |= {"tojson": _to_json, "within_time": _within_time}
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now, "namespace": _Names}
        self.clock = threading.local()  # one template can be used in several threads

    def compiled(self, source: str) -> jinja2.Template:
        tree = self.parse(source)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "within_time", [], [], None, None).set_lineno(loop.lineno)
        return self.from_string(tree)

    def run(self, template: jinja2.Template, values: Mapping[str, object], seconds: float) -> str:
        self.clock.seconds, self.clock.end = seconds, time.monotonic() + seconds
        pieces, size = [], 0
        for piece in template.generate(values):
            size += len(piece)
            _limit(size, MAX_CHARACTERS, "characters")
            pieces.append(piece)
        return "".join(pieces)

    def check_time(self) -> None:
        if time.monotonic() > self.clock.end:
            raise OverflowError(f"it ran longer than {self.clock.seconds} seconds")

    def unsafe_undefined(self, obj: object, attribute: str) -> jinja2.Undefined:
        raise SecurityError(f"{attribute!r} of {type(obj).__name__} is unsafe")  # jinja2 alone would write nothing

    def is_safe_callable(self, obj: object) -> bool:
        self.check_time()  # asked before each call, so macros that call each other end too
        return super().is_safe_callable(obj)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            _limit(bits, MAX_BITS, "bits of a number")
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(times, int):
                _limit(len(many) * times, MAX_CHARACTERS, "characters or items")
        return super().call_binop(context, operator, left, right)


@jinja2.pass_context
def _within_time(context: Context, items: Any) -> Iterator[Any]:
    for item in items:
        context.environment.check_time()  # type: ignore[attr-defined]
        yield item


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML; templates for transformers expect plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise RefusedError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


def _limit(size: int, most: int, of_what: str) -> None:
    if size > most:
        raise OverflowError(f"it makes more than {most} {of_what}")


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold {name!r}")
