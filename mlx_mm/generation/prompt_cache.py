"""What a model has computed of a prompt, kept for the next one that begins alike, in memory or in a file."""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_mm.backend.streams import computing
from mlx_mm.checkpoint.atomic import new_file
from mlx_mm.errors import InputError, foreign, shown
from mlx_mm.generation.request import LayerCache, Request
from mlx_mm.generation.twins import Twin
from mlx_mm.processing.files import check_regular

FORMAT = "mlx_mm prompt cache 1"
ENDING = ".safetensors"
LAYERS = ("KVCache", "QuantizedKVCache", "RotatingKVCache")
MOST_BYTES = 2**40  # of a saved cache
SAMPLE = 8  # numbers of each tensor by which two checkpoints are told apart
_TAKING = threading.Lock()


class HasParameters(Protocol):
    """The part of a model by which a cache knows it again."""

    def parameters(self) -> Mapping[str, object]: ...


class StoredLayer(LayerCache, Protocol):
    """One of mlx_lm's caches of a single prompt: it can be cut and written to a file."""

    @property
    def offset(self) -> int: ...
    @property
    def state(self) -> Sequence[object]: ...
    def is_trimmable(self) -> bool: ...
    def trim(self, n: int) -> int: ...


class Layers(list[StoredLayer]):
    """mlx_lm's caches of a prompt, one for each layer. twin: where other ranks have theirs."""

    def __init__(self, layers: Iterable[StoredLayer] = (), twin: Twin | None = None) -> None:
        super().__init__(layers)
        self.twin = twin


class PromptCache:
    """Keys and values of the tokens of one prompt, for one model. An empty one may be passed to any generation.

    keys: one number for each token that is in it, see `Request.token_keys`. What a prompt shares with it from the
    beginning is not computed again. Without the model it was made with, or with other limits, it begins anew. It
    serves one answer at a time. layers: mlx_lm's caches.
    """

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.layers = Layers()
        self._kind: tuple[int | None, int | None] = (None, None)
        self._model: HasParameters | None = None
        self._taken = False

    def __len__(self) -> int:
        return len(self.keys)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Inside, it serves one answer, and afterwards has what came of it; InputError where another has it."""
        with _TAKING:
            self._check_free()
            self._taken = True
        try:
            yield
        finally:  # also where the caller stops, or an interruption comes in the middle of a step
            self.cut(len(self.keys))
            self._taken = False

    def _check_free(self) -> None:
        if self._taken:
            raise InputError(
                "The prompt cache is in use by an answer that is not complete; expected one answer at a time. Take all "
                "of its pieces, close it, or give each its own cache."
            )

    def begin(
        self,
        model: HasParameters,
        request: Request,
        keys: Sequence[int],
        *,
        max_kv_size: int | None,
        kv_bits: int | None,
    ) -> Layers:
        """mlx_lm's caches for a prompt of these keys; `len(self)` of its tokens, never all, are in them."""
        from mlx_lm.models.cache import make_prompt_cache

        same = self._model is model and self._kind == (max_kv_size, kv_bits)
        pairs = enumerate(zip(self.keys, keys, strict=False))
        common = next((i for i, (old, new) in pairs if old != new), min(len(self.keys), len(keys)))
        self.cut(min(common, len(keys) - 1) if same else 0)
        if not self.layers:
            self._model, self._kind = model, (max_kv_size, kv_bits)
            self.layers = Layers(make_prompt_cache(cast(nn.Module, request), max_kv_size))
        return self.layers

    def cut(self, count: int) -> None:
        """Keep the first `count` tokens; none, where that is not possible.

        A rotating cache that is full has forgotten what it would take. After an interruption layers may have come to
        different ends, and one may be torn in the middle.
        """
        surplus = [layer.offset - count for layer in self.layers]
        whole = bool(count and surplus) and min(surplus) >= 0 and all(map(_is_whole, self.layers))
        if not whole or not all(layer.is_trimmable() for layer, more in zip(self.layers, surplus, strict=True) if more):
            self.layers, self.keys = Layers(), []
            return
        for layer, more in zip(self.layers, surplus, strict=True):
            layer.trim(more)
        del self.keys[count:]

    def save(self, path: str | Path, *, about: Mapping[str, str] | None = None) -> None:
        """Write it to a file, which is replaced once the new one is complete. about: texts to keep beside it.

        Raises InputError for an empty cache, one in use, and another ending than .safetensors, OutputError where
        writing fails.
        """
        from mlx_lm.models.cache import save_prompt_cache

        path = _checked(path)
        _check_whole(self._model)
        self._check_free()
        if not self.keys or self._model is None:
            raise InputError("There is nothing in the cache yet; expected a prompt. Generate first, then save.")
        if about is not None and not isinstance(about, Mapping):
            raise InputError(f"about is {shown(about)}; expected a dict of texts. Leave it out.")
        about = {f"about_{key}": str(text) for key, text in (about or {}).items()}
        own = {"format": FORMAT, "model": fingerprint(self._model), "keys": json.dumps(self.keys)}
        with new_file(path) as new, computing():
            try:
                save_prompt_cache(str(new), self.layers, own | {"kind": json.dumps(self._kind)} | about)
            except RuntimeError as error:  # which mlx raises for files
                raise OSError(str(error)) from error

    @classmethod
    def load(cls, path: str | Path, model: HasParameters) -> tuple["PromptCache", dict[str, str]]:
        """A saved cache and what was saved about it; InputError for another model's, or what is no such file."""
        from mlx_lm.models.cache import load_prompt_cache

        path = _checked(path)
        _check_whole(model)
        advice = "expected a prompt cache. Save it again."
        with foreign(InputError, f"{path} cannot be read", advice):
            check_regular(path, MOST_BYTES)
            with computing():
                loaded: Any = mx.load(str(path), return_metadata=True)
        metadata: dict[str, str] = loaded[1]
        kinds = [value for name, value in metadata.items() if name.startswith("1.")]  # as mlx_lm flattens its metadata
        if metadata.get("0.format") != FORMAT or not kinds or not set(kinds) <= set(LAYERS):
            raise InputError(f"{path} is no prompt cache; expected one that mlx_mm saved. Name another file.")
        if metadata.get("0.model") != fingerprint(model):
            raise InputError(
                f"{path} was saved with another checkpoint, or another conversion of it; expected one of the model "
                "that is loaded. Load that model, or begin anew."
            )
        cache = cls()
        with foreign(InputError, f"{path} is damaged", advice):
            with computing():
                cache.layers = Layers(load_prompt_cache(str(path)))
                mx.eval([array for layer in cache.layers for array in _arrays(layer.state).values()])
            cache.keys = [int(key) for key in json.loads(metadata["0.keys"])]
            size, bits = json.loads(metadata["0.kind"])
        if {layer.offset for layer in cache.layers} != {len(cache.keys)}:
            raise InputError(f"{path} is damaged: its tokens are not as many as it says. Save it again.")
        cache._model, cache._kind = model, (size, bits)
        start = "0.about_"
        return cache, {key.removeprefix(start): text for key, text in metadata.items() if key.startswith(start)}


def fingerprint(model: HasParameters) -> str:
    """A digest of a model's tensors: names, shapes, dtypes and the first numbers of each."""
    tensors = sorted(_arrays(model.parameters()).items())
    with computing():
        samples = [tensor.reshape(-1)[:SAMPLE].astype(mx.float32) for _, tensor in tensors]
        mx.eval(samples)
    digest = hashlib.blake2b(digest_size=16)
    for (name, tensor), sample in zip(tensors, samples, strict=True):
        digest.update(f"{name} {tensor.shape} {tensor.dtype}".encode() + np.array(sample).tobytes())
    return digest.hexdigest()


def _check_whole(model: HasParameters | None) -> None:
    if getattr(model, "group", None) is not None:
        raise InputError(
            "The prompt cache is of a model in parts, of which each rank has its own; expected a whole model. Save the "
            "messages instead, or load the model in one process."
        )


def _is_whole(layer: StoredLayer) -> bool:
    """Whether keys and values of a layer have room for equally many tokens, and it knows where the next one goes."""
    if type(layer).__name__ == "RotatingKVCache":
        *_, size, place = layer.state
        if layer.offset < size and layer.offset != place:  # type: ignore[operator]
            return False
    return len({array.shape[-2] for array in _arrays(layer.state).values()}) == 1


def _arrays(tree: object) -> dict[str, mx.array]:
    return {name: leaf for name, leaf in dict(tree_flatten(tree)).items() if isinstance(leaf, mx.array)}


def _checked(path: str | Path) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{shown(path)} is given as a file; expected the path of a prompt cache. Pass a str or Path.")
    if Path(path).suffix != ENDING:
        raise InputError(f"{path} is the name of a prompt cache; expected one that ends in {ENDING}. Change it.")
    return Path(path)
