"""What a checkpoint lost, as `compare` and `convert` measure it, against the public verbs and the files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from comparing import LONG

from mlx_mm import classify, compare, convert, encode_image, encode_text, generate, load
from mlx_mm.backend import device
from mlx_mm.checkpoint.digest import weights_digest
from mlx_mm.errors import InputError, ModelNotFoundError
from mlx_mm.evaluate import comparing, outputs
from mlx_mm.evaluate.streamed import Streamed
from mlx_mm.load import open_checkpoint
from mlx_mm.probes import bundled_probes, chat_batch, fitting
from mlx_mm.quantize.cost import Cost

Tiny = Callable[..., Path]
MEASURED = bundled_probes().halves()[1]


def of_files(folder: Path, name: str) -> np.ndarray:
    """A tensor of a folder; a quantised one as floats."""
    tensors = mx.load(str(folder / "model.safetensors"))
    assert isinstance(tensors, dict)
    path = name.removesuffix(".weight")
    if f"{path}.scales" not in tensors:
        return np.array(tensors[name].astype(mx.float32))
    block = json.loads((folder / "config.json").read_text())["quantization"]
    scales, biases = (tensors[f"{path}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
    return np.array(mx.dequantize(tensors[name], scales, biases, block["group_size"], block["bits"]))


def without_time(cost: Cost) -> Cost:
    return dataclasses.replace(cost, seconds=0.0)


@LONG[0]
@LONG[1]
@pytest.mark.filterwarnings("ignore:11 of 50 texts are longer than 16 tokens")
def test_vectors_are_those_of_the_public_verbs(tmp_path: Path) -> None:
    report = convert("emoji-siglip2", tmp_path / "out", group_size=32, method="plain", check=True)
    cost = report.cost
    assert cost is not None
    pairs = [load(folder) for folder in ("emoji-siglip2", tmp_path / "out")]
    for kind, encode, items in (
        ("text", encode_text, list(MEASURED.texts)),
        ("image", encode_image, list(MEASURED.images)),
    ):
        source, other = (encode(*pair, items) for pair in pairs)  # type: ignore[operator]
        cosines = (source * other).sum(axis=1)
        assert cost.vectors[kind].items == len(items)
        assert cost.vectors[kind].mean == pytest.approx(cosines.mean(), abs=1e-5)
        assert cost.vectors[kind].lowest == pytest.approx(cosines.min(), abs=1e-5)
        assert 0.8 < cost.vectors[kind].lowest < cost.vectors[kind].mean < 0.995
    assert len(cost.layers) == 5
    assert [one.error for one in cost.layers] == sorted((one.error for one in cost.layers), reverse=True)
    assert all(one.effect is not None and 0 < one.effect < 0.1 for one in cost.layers)
    # The same again from the two folders, and from a model that does not stay in memory
    again = compare("emoji-siglip2", tmp_path / "out")
    assert without_time(again) == without_time(cost)
    eight = convert("emoji-siglip2", tmp_path / "eight", bits=8, method="plain", check=True).cost
    assert eight is not None
    assert all(1 - eight.vectors[kind].mean < (1 - cost.vectors[kind].mean) / 50 for kind in ("text", "image"))


def test_each_layer_is_read_when_it_is_reached(
    tiny_checkpoint: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first layer's error is that of the rows that the texts look up; of wider MLPs zeros change nothing."""
    source = tiny_checkpoint("siglip")
    convert(source, tmp_path / "out", method="plain")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["padded"]
    kept = compare(source, tmp_path / "out")
    monkeypatch.setattr(comparing, "SMALL_BYTES", 0)
    monkeypatch.setattr(comparing, "WORST", 99)
    read = compare(source, tmp_path / "out")
    assert read.vectors == kept.vectors
    assert [(one.path, one.error) for one in read.layers[:5]] == [(one.path, one.error) for one in kept.layers]
    assert all(one.effect is None for one in read.layers)
    by_path = {one.path: one for one in read.layers}
    _, processor = load(source)
    name = "text_model.embeddings.token_embedding"
    ids = np.unique(processor.text(list(MEASURED.texts))["input_ids"])  # type: ignore[union-attr]
    assert len(ids) <= 256
    theirs, ours = (of_files(folder, f"{name}.weight")[ids] for folder in (source, tmp_path / "out"))
    expected = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert by_path[name].error == pytest.approx(expected, rel=1e-4)
    assert by_path[name].bits == 4
    assert len([path for path in by_path if path.endswith(".fc2")]) == 5


def test_a_model_that_answers(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    source = tiny_checkpoint("glm46v")
    convert(source, tmp_path / "out", group_size=32, recipe="all", method="plain")
    loaded = load(source)
    model, processor = loaded
    assert model.kind == "generator"
    assert processor.kind == "chat"
    chat = MEASURED.chats[0]
    batch = chat_batch(chat, processor)
    tokens = outputs.likeliest(model, batch, processor.defaults.stop_ids)
    options = {"images": list(chat.images), "temperature": 0, "enable_thinking": False}
    said = generate(*loaded, chat.text, max_tokens=len(tokens), **options)
    assert processor.decode(tokens, skip_special_tokens=False).startswith(said.raw.rstrip())
    cost = compare(source, tmp_path / "out")
    assert cost.along == "answers"
    assert cost.probes == {"chat": (9, "bundled")}
    assert {kind: one.items for kind, one in cost.tokens.items()} == {"text": 48, "image": 96}
    assert all(0.001 < one.mean < one.highest < 1 and 0.2 < one.first < 1 for one in cost.tokens.values())
    same = compare(source, source)
    assert [(one.highest, one.first) for one in same.tokens.values()] == [(0, 1), (0, 1)]
    assert same.layers == ()


def test_a_classifier(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip-classifier")
    convert(source, tmp_path / "out", method="plain")
    cost = compare(source, tmp_path / "out")
    assert (cost.vectors, list(cost.tokens)) == ({}, ["image"])
    scores = [classify(*load(folder), list(MEASURED.images)) for folder in (source, tmp_path / "out")]
    same = [a[0][0] == b[0][0] for a, b in zip(*scores, strict=True)]
    assert (cost.tokens["image"].items, cost.tokens["image"].first) == (21, sum(same) / 21)
    p, q = ([dict(one) for one in of_one] for of_one in scores)
    divergences = [sum(a[label] * np.log(a[label] / b[label]) for label in a) for a, b in zip(p, q, strict=True)]
    assert cost.tokens["image"].mean == pytest.approx(np.mean(divergences), rel=1e-3)


def test_what_convert_writes(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip2")
    report = convert(source, tmp_path / "out", method="plain", check=True)
    assert report.cost is not None
    values = json.loads((tmp_path / "out" / "conversion.json").read_text("utf-8"))
    assert values["format"] == 1
    assert values["source"] == {
        "name": source.name,
        "digest": weights_digest(source),
        "bytes": report.source_bytes,
    }
    assert values["quantization"] == {"bits": 4, "group_size": 64, "mode": "affine"}
    assert values["method"] == "plain"
    assert values["cost"] == json.loads(json.dumps(report.cost.as_dict()))
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert report.cost.as_markdown() in card
    assert str(tmp_path) not in card + json.dumps(values)
    again = convert(source, tmp_path / "again", method="plain", check=False)
    assert again.cost is None
    assert json.loads((tmp_path / "again" / "conversion.json").read_text("utf-8"))["cost"] is None
    assert "lost" not in (tmp_path / "again" / "README.md").read_text("utf-8")


def test_what_cannot_be_measured_is_converted_nevertheless(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip2-text")
    (source / "tokenizer.json").unlink()
    with pytest.warns(UserWarning, match="What the conversion lost was not measured: .*tokenizer"):
        report = convert(source, tmp_path / "out", method="plain", check=True)
    assert report.cost is None
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_two_models_are_refused(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    naflex = tiny_checkpoint("siglip2")
    for name, part in (
        ("siglip2-text", r"\(inputs: text and image, and text\)"),
        ("siglip2-classifier", r"\(kind: encoder, and classifier\)"),
        ("siglip", r"\(vision_model\.embeddings\.patch_embedding\.weight: "),
    ):
        with pytest.raises(InputError, match=part):
            compare(naflex, tiny_checkpoint(name))
    with pytest.raises(ModelNotFoundError):
        compare(naflex, tmp_path / "missing")


def test_a_folder_of_the_wrong_kind_is_told_before_anything_is_written(tiny_checkpoint: Tiny, tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").write_bytes(b"")
    with pytest.raises(InputError, match="sounds holds 1 sounds, and this model takes texts and pictures"):
        convert(tiny_checkpoint("siglip2"), tmp_path / "out", method="plain", calibrate=tmp_path / "sounds", check=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", ["glm46v", "clip", "clap"])
def test_a_model_that_is_read_layer_by_layer_gives_the_same(tmp_path: Path, tiny_checkpoint: Tiny, recipe: str) -> None:
    """From files of 16 bits, whose tables are not cast as a whole where there are kernels."""
    convert(tiny_checkpoint(recipe), tmp_path / "half", bits=None, dtype="bfloat16", check=False)
    opened = open_checkpoint(tmp_path / "half")
    model, processor = opened.load()
    streamed = Streamed(opened)
    few = comparing.some_of_each(fitting(bundled_probes(), model), 3)
    task = outputs.prompts(few, model, processor)
    expected, found = (outputs.results(each, task, lambda _modality: None) for each in (model, streamed.model))
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[kind], found[kind]) for kind in expected)
    [table] = [path for path in streamed.paths if path.endswith(("embed_tokens", "token_embedding"))]
    wanted = mx.bfloat16 if device.has_kernels() else mx.float32
    assert streamed.take(table).weight.dtype == wanted
