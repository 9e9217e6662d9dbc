"""What a forward pass does beside computing: it reads nothing back, and keeps tables that follow from the weights."""

from __future__ import annotations

import ast
import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from comparing import TRACES
from PIL import Image

import mlx_mm
from mlx_mm import encode_image, load, to_mlx
from mlx_mm.backend import device, parts

FAMILIES = ["siglip", "siglip2", "metaclip_2", "clip", "clap", "clap-fused", "jina_clip"]


def image(height: int, width: int) -> Image.Image:
    return Image.fromarray((np.arange(height * width * 3) % 251).astype(np.uint8).reshape(height, width, 3))


def sound(count: int) -> tuple[np.ndarray, int]:
    return np.sin(np.arange(count) / 7).astype(np.float32), 48000


def calls(model: Any, processor: Any) -> list[tuple[Callable[..., mx.array], dict[str, mx.array]]]:
    """What gives vectors, and a batch for each."""
    texts = to_mlx(processor.text(["a cat", "a dog and a cat"]))
    if "audio" in model.modalities:
        sounds = to_mlx(processor.audio([sound(9000), sound(500_000)]))
        return [(model.get_text_features, texts), (model.get_audio_features, sounds)]
    images = to_mlx(processor.images([image(40, 50), image(60, 9)]))
    return [(model.get_text_features, texts), (model.get_image_features, images)]


@TRACES
@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_that_was_computed_is_read_back(
    family: str, on_cpu: bool, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While MLX traces a function of the weights, no array that depends on them can be evaluated."""
    model, processor = load(tiny_checkpoint(family))
    model.train()  # tables of the weights are made anew then
    monkeypatch.setattr(device, "on_cpu", lambda: on_cpu)
    for features, batch in calls(model, processor):
        right = features(**batch)
        mx.eval(right)
        weights = model.parameters()

        def run(weights: Any, features: Any = features, batch: Any = batch) -> mx.array:
            model.update(weights)
            return features(**batch)

        assert mx.compile(run)(weights).shape == right.shape  # never evaluated: g++ would be called for minutes
        model.update(weights)

    def reading(weights: Any) -> mx.array:
        model.update(weights)
        result = calls(model, processor)[0][0](**calls(model, processor)[0][1])
        return result * result.max().item()

    with pytest.raises(ValueError, match="eval"):
        mx.compile(reading)(model.parameters())
    model.update(weights)


# Functions at the door of a tower: they read what was given to it, which came from memory, and nothing computed.
DOORS = {
    "models/siglip2/vision": {"read_grids"},
    "models/metaclip_2/text": {"check_ends", "check_padding"},
    "models/clap/text": {"_check_positions"},
    "models/clap/audio": {"_read_longer"},
}
READING = {"tolist", "item", "read_rows"}


def functions_that_read(path: Path) -> set[str]:
    """The names of functions in a file that call for the numbers of an array."""
    found = set()
    for function in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    found |= {function.name} if name in READING else set()
    return found


def test_only_doors_read_arrays() -> None:
    package = Path(mlx_mm.__file__).parent
    towers = [path for name in ("text", "vision", "audio", "language") for path in package.glob(f"models/*/{name}.py")]
    assert len(towers) >= 9
    for path in [*towers, *package.glob("layers/*.py")]:
        file = path.relative_to(package).with_suffix("").as_posix()
        assert functions_that_read(path) == DOORS.get(file, set()), file


# --- tables of the weights


def larger(model: Any, processor: Any) -> Callable[[], np.ndarray]:
    """The vectors of images whose position tables are resized."""
    if "pixel_attention_mask" in processor.images([image(9, 9)]):
        batch = to_mlx(processor.images([image(40, 50), image(60, 9), image(50, 40)]))
        return lambda: np.array(model.get_image_features(**batch))
    pixels = to_mlx(processor.images([image(40, 50)]))["pixel_values"]
    pixels = mx.concatenate([pixels, pixels[:, : pixels.shape[1] // 2]], axis=1)
    mx.eval(pixels)  # or another thread could not
    return lambda: np.array(model.get_image_features(pixels, interpolate_pos_encoding=True))


@pytest.fixture(params=["siglip", "siglip2", "metaclip_2"])
def resizing(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> tuple[Any, Any]:
    return load(tiny_checkpoint(request.param))


def positions(model: Any) -> mx.array:
    return model.vision_model.embeddings.position_embedding.weight


def test_kept_tables_change_no_bit(resizing: tuple[Any, Any]) -> None:
    model, processor = resizing
    vectors = larger(model, processor)
    first = vectors()
    assert np.array_equal(vectors(), first)
    model.train()
    assert np.array_equal(vectors(), first)


@pytest.mark.parametrize("way", ["load_weights", "update", "attribute"])
def test_other_weights_have_other_tables(resizing: tuple[Any, Any], way: str) -> None:
    model, processor = resizing
    vectors, name = larger(model, processor), "vision_model.embeddings.position_embedding.weight"
    before, new = vectors(), positions(model) * -3.0
    if way == "load_weights":
        model.load_weights([(name, new)], strict=False)
    elif way == "update":
        model.vision_model.embeddings.update({"position_embedding": {"weight": new}})
    else:
        model.vision_model.embeddings.position_embedding.weight = new
    after = vectors()
    assert np.abs(after - before).max() > 1e-3
    model.train()
    assert np.array_equal(vectors(), after)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_their_own(resizing: tuple[Any, Any], copied: Callable[[Any], Any]) -> None:
    model, processor = resizing
    before = larger(model, processor)()
    other = copied(model)
    assert np.array_equal(larger(other, processor)(), before)
    other.vision_model.embeddings.position_embedding.weight = positions(other) * -3.0
    assert np.abs(larger(other, processor)() - before).max() > 1e-3
    assert np.array_equal(larger(model, processor)(), before)


def test_tables_are_no_parameters(resizing: tuple[Any, Any]) -> None:
    model, processor = resizing
    names = set(model.vision_model.embeddings.parameters())
    larger(model, processor)()
    assert set(model.vision_model.embeddings.parameters()) == names
    assert not any(name.startswith("_") for name in names)


def test_from_several_threads_at_once(resizing: tuple[Any, Any]) -> None:
    model, processor = resizing
    right = larger(model, processor)()
    other = copy.deepcopy(model)  # whose tables are not made yet
    vectors, found, errors = larger(other, processor), [], []

    def run() -> None:
        try:
            with mx.stream(mx.new_stream(mx.cpu)):
                found.append(vectors())
        except RuntimeError as error:
            errors.append(error)
        finally:
            mx.clear_streams()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(found) == 4
    assert all(np.abs(result - right).max() < 1e-6 for result in found)
    assert np.array_equal(vectors(), right)


def test_parts_of_a_batch_share_tables(tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Made in the thread of one part, used by the others and by the caller."""
    model, processor = load(tiny_checkpoint("siglip2"))
    monkeypatch.setattr(device, "processors", lambda: 3)
    images = [image(40, 50), image(60, 9), image(9, 60)] * 3
    batch = to_mlx(processor.images(images))
    split = np.array(parts.run_in_parts(model.get_image_features, batch, model))
    assert np.abs(split - np.array(model.get_image_features(**batch))).max() < 1e-5
    assert encode_image(model, processor, images).shape == (9, split.shape[1])
