"""A second vision-language family: one folder beside the tests and one row of the table, and everything works.

No file of the package knows it: its markers, its chat format, its positions and its images are its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

import mlx_mm.models
from mlx_mm import Conversation, PromptCache, convert, generate, load, stream_generate
from mlx_mm.generation.answer import join

CONFIG = {"model_type": "stub_vlm", "hidden_size": 64, "num_heads": 2, "num_layers": 2, "max_length": 512}
FILES = {"__init__.py", "config.py", "family.py", "model.py", "processor.py", "request.py", "response.py"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the stub, as Hugging Face would have it; the family is known while a test runs."""
    monkeypatch.setattr(mlx_mm.models, "__path__", [*mlx_mm.models.__path__, str(Path(__file__).parent)])
    monkeypatch.setitem(mlx_mm.models.MODEL_TYPES, "stub_vlm", "stub_vlm")
    from mlx_mm.models.stub_vlm.config import ModelConfig  # type: ignore[import-not-found]
    from mlx_mm.models.stub_vlm.model import Model  # type: ignore[import-not-found]

    checkpoint = tmp_path / "stub"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    draw = np.random.RandomState(0)
    weights = {
        f"stub.{name}": mx.array(draw.standard_normal(value.shape).astype(np.float32) / 8)
        for name, value in sorted(tree_flatten(Model(ModelConfig.from_dict(CONFIG)).parameters()))
    }
    mx.save_safetensors(str(checkpoint / "model.safetensors"), weights, {"format": "pt"})
    return checkpoint


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8))


class Scripted:
    """A request that says given tokens, then the end; everything else is the stub's own."""

    def __init__(self, request: Any, tokens: list[int], prompt: int) -> None:
        self.request, self.tokens, self.prompt = request, tokens, prompt
        self.layers, self.left_padding, self.token_keys = request.layers, request.left_padding, request.token_keys

    def __call__(self, input_ids: mx.array, cache: Any) -> mx.array:
        logits = self.request(input_ids, cache)
        done = cache[0].offset - self.prompt
        token = self.tokens[done] if 0 <= done < len(self.tokens) else 256
        return mx.where(mx.arange(logits.shape[-1]) == token, 100.0, 0 * logits)


def script(model: Any, processor: Any, said: str) -> Any:
    usual = type(model).request
    model.request = lambda batch: Scripted(usual(model, batch), processor.encode(said), batch["input_ids"].shape[1])
    return model


def test_it_is_one_folder_and_one_row(folder: Path) -> None:
    assert {path.name for path in (Path(__file__).parent / "stub_vlm").glob("*.py")} == FILES
    package = Path(mlx_mm.__file__).parent
    assert not [path for path in package.rglob("*.py") if "stub_vlm" in path.read_text("utf-8")]


def test_loads_generates_and_streams(folder: Path) -> None:
    model, processor = load(folder)
    answer = generate(model, processor, "What?", images=[image(0)], max_tokens=8)
    assert (answer.generation_tokens, answer.finish_reason) == (8, "length")
    assert answer.prompt_tokens == len("user: What?\nassistant: ") + 4
    assert generate(model, processor, "What?", images=[image(1)], max_tokens=8).raw != answer.raw
    assert join(stream_generate(model, processor, "What?", images=[image(0)], max_tokens=8)).raw == answer.raw
    in_pieces = generate(model, processor, "What?", images=[image(0)], max_tokens=8, prefill_step_size=3)
    assert in_pieces.raw == answer.raw


def test_its_own_markers(folder: Path) -> None:
    model, processor = load(folder)
    script(model, processor, "((hm))It is @0,10,50,100@. Stop here")
    answer = generate(model, processor, "Where?", images=[image(0)], stop="Stop")
    assert (answer.reasoning, answer.text, answer.finish_reason) == ("hm", "It is @0,10,50,100@.", "stop")
    assert (answer.boxes, answer.pixel_boxes) == ([[0, 10, 50, 100]], [[0, 4, 30, 40]])
    glm = "<think>no</think> <|begin_of_box|>"
    assert (
        generate(script(model, processor, glm), processor, "Where?").text == glm
    )  # another family's mean nothing here


def test_chats(folder: Path) -> None:
    model, processor = load(folder)
    conversation = Conversation(script(model, processor, "Write [img] there."), processor, system="Be brief.")
    first = join(conversation.ask("How?", images=[image(0)]))
    assert conversation.messages[-1]["content"] == "Write [ img] there."
    second = join(conversation.ask("Really?", images=[image(1)]))
    assert 0 < first.prompt_tokens < second.cached_tokens + 20
    del model.request
    whole = generate(model, processor, conversation.messages[:4], max_tokens=6)
    cache = PromptCache()
    for count in (2, 4):  # two turns with one cache: the same as without
        last = generate(model, processor, conversation.messages[:count], max_tokens=6, cache=cache)
    assert (last.raw, last.cached_tokens > 20) == (whole.raw, True)


@pytest.mark.parametrize("bits", [None, 4])
def test_converts(bits: int | None, folder: Path, tmp_path: Path) -> None:
    question = {"images": [image(0)], "max_tokens": 8}
    before = generate(*load(folder), "What?", **question)  # type: ignore[arg-type]
    convert(folder, tmp_path / "out", bits=bits, group_size=32)
    model, processor = load(tmp_path / "out")
    after = generate(model, processor, "What?", **question)  # type: ignore[arg-type]
    quantised = [name for name, _ in tree_flatten(model.parameters()) if name.endswith(".scales")]
    assert bool(quantised) == (bits is not None)
    assert after.generation_tokens == 8
    if bits is None:
        assert after.raw == before.raw
