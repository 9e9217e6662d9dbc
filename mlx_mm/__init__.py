"""Multimodal models on MLX: search pictures and sounds by words, tag them, ask about them, convert to 4 or 8 bit."""

import sys as _sys
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING

from mlx_mm.errors import MlxMmError

if TYPE_CHECKING:
    from mlx_mm.backend.border import to_mlx
    from mlx_mm.classify import classify
    from mlx_mm.conversation import Conversation
    from mlx_mm.convert import ConvertReport, convert
    from mlx_mm.dequantize import DequantizeReport, dequantize
    from mlx_mm.embed import encode_audio, encode_image, encode_text
    from mlx_mm.evaluate.comparing import compare
    from mlx_mm.generate import generate, stream_generate
    from mlx_mm.generation.answer import Generation
    from mlx_mm.generation.prompt_cache import PromptCache
    from mlx_mm.load import load
    from mlx_mm.search.index import Index
    from mlx_mm.search.records import Hit, RefreshReport, Where

__version__ = "0.1.0"

__all__ = [
    "Conversation",
    "ConvertReport",
    "DequantizeReport",
    "Generation",
    "Hit",
    "Index",
    "MlxMmError",
    "PromptCache",
    "RefreshReport",
    "Where",
    "classify",
    "compare",
    "convert",
    "dequantize",
    "encode_audio",
    "encode_image",
    "encode_text",
    "generate",
    "load",
    "stream_generate",
    "to_mlx",
]

# Imported on first use: `import mlx_mm` stays instant, `mlx_mm --help` too.
_ROOMS = {
    "Conversation": "conversation",
    "ConvertReport": "convert",
    "DequantizeReport": "dequantize",
    "Generation": "generation.answer",
    "Hit": "search.records",
    "Index": "search.index",
    "PromptCache": "generation.prompt_cache",
    "RefreshReport": "search.records",
    "Where": "search.records",
    "classify": "classify",
    "compare": "evaluate.comparing",
    "convert": "convert",
    "dequantize": "dequantize",
    "encode_audio": "embed",
    "encode_image": "embed",
    "encode_text": "embed",
    "generate": "generate",
    "load": "load",
    "stream_generate": "generate",
    "to_mlx": "backend.border",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_import_module(f"mlx_mm.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What there is to use, for completion in a notebook; not what this file imports for itself."""
    return sorted({*__all__, "errors", *(name for name in globals() if name.startswith("__"))})


class _Package(_ModuleType):
    """`load` and `convert` are functions here and files too; importing the file must not hide the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _ROOMS and isinstance(value, _ModuleType)):
            super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package
