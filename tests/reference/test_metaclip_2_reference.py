"""Random transformers models of MetaCLIP 2 and CLIP, saved, taken through `convert` and `load`, and compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from beside import difference, ours, randomise, save, theirs, through_convert
from metaclip_tiny import CLASSES, write_clip_side_files
from safetensors.numpy import load_file, save_file
from tiny import hashed, layer_of, requantised

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import mlx_mm  # noqa: E402

EMBEDDING, LOGIT, STATE, SHARE = 1e-5, 1e-4, 1e-4, 1e-5

TEXT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}
VISION = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "image_size": 32,
    "patch_size": 8,
}
# model_type, activation, eos_token_id: MetaCLIP 2's two tokenizers, CLIP's legacy rule and its later one
VARIANTS = [
    ("metaclip_2", "gelu", 2),
    ("metaclip_2", "quick_gelu", 2),
    ("metaclip_2", "gelu", 1),
    ("clip", "quick_gelu", 2),
    ("clip", "gelu", 57),
]
Variant = tuple[str, str, int]
SHORT = [("metaclip_2", "gelu", 2), ("clip", "quick_gelu", 2)]


def class_of(variant: Variant, kind: str) -> Any:
    """`kind`: Model, TextModel, VisionModel, …WithProjection, ForImageClassification or Config."""
    return getattr(transformers, CLASSES[variant[0]] + kind)


def joint_config(variant: Variant, **extra: Any) -> Any:
    _, hidden_act, eos = variant
    both = {"hidden_act": hidden_act, "projection_dim": 96}
    return class_of(variant, "Config")(
        text_config=TEXT | both | {"bos_token_id": None, "pad_token_id": None, "eos_token_id": eos},
        vision_config=VISION | both,
        **({"projection_dim": 96} | extra),
    )


def make(variant: Variant, kind: str = "Model", **extra: Any) -> Any:
    """A random model whose attentions can be read."""
    config = joint_config(variant, **extra)
    if kind.startswith(("Text", "Vision")):
        config = config.text_config if kind.startswith("Text") else config.vision_config
    return randomise(class_of(variant, kind)._from_config(config, attn_implementation="eager"))


def texts(eos: int, *, length: int = 16, vocab: int = 60) -> dict[str, np.ndarray]:
    """A full text, one with an end in its middle, one whose rarest word comes twice; padded with 1."""
    ids, mask = np.ones((3, length), np.int64), np.zeros((3, length), np.int64)
    for row in range(3):
        count = length - 5 * row
        ids[row, :count] = 3 + (np.abs(hashed((count,), 500 + row)) * (vocab - 3)).astype(np.int64)
        ids[row, ids[row] == eos] = 3
        ids[row, 0], ids[row, count - 1] = 0, eos
        mask[row, :count] = 1
    ids[1, 5] = eos
    ids[2, 2:5] = [vocab - 1, 4, vocab - 1]
    return {"input_ids": ids, "attention_mask": mask}


def images(size: tuple[int, int] = (32, 32)) -> dict[str, np.ndarray]:
    """NCHW, as transformers takes them."""
    return {"pixel_values": hashed((3, 3, *size), 600).astype(np.float32)}


def run(reference: Any, batch: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return reference(**theirs(batch), **options)


def compare_states(got: Any, right: Any) -> None:
    """`last_hidden_state`, hidden states and attentions; what is pooled differs between classes."""
    assert difference(got.last_hidden_state, right.last_hidden_state) <= STATE
    assert len(got.hidden_states) == len(right.hidden_states) == 4
    for a, b in zip(got.hidden_states, right.hidden_states, strict=True):
        assert difference(a, b) <= STATE
    assert len(got.attentions) == len(right.attentions) == 3
    for a, b in zip(got.attentions, right.attentions, strict=True):
        assert difference(a, b) <= SHARE


def compare_towers(got: Any, right: Any) -> None:
    compare_states(got, right)
    assert difference(got.pooler_output, right.pooler_output) <= STATE


def compare_joint(got: Any, right: Any) -> None:
    assert difference(got.text_embeds, right.text_embeds) <= EMBEDDING
    assert difference(got.image_embeds, right.image_embeds) <= EMBEDDING
    assert difference(got.logits_per_text, right.logits_per_text) <= LOGIT
    assert difference(got.logits_per_image, right.logits_per_image) <= LOGIT
    assert difference(got.loss, right.loss) <= LOGIT
    compare_towers(got.text_model_output, right.text_model_output)
    compare_towers(got.vision_model_output, right.vision_model_output)


EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


# --- tiny models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_mask", [False, True])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_joint_model(variant: Variant, text_mask: bool, tmp_path: Path) -> None:
    reference = make(variant)
    batch = texts(variant[2]) | images()
    if not text_mask:
        del batch["attention_mask"]
    model = through_convert(reference, tmp_path)
    got = model(**ours(batch), return_loss=True, **EVERYTHING)
    right = run(reference, batch, return_loss=True, **EVERYTHING)
    compare_joint(got, right)
    spread = right.logits_per_text.max() - right.logits_per_text.min()
    assert float(spread) > 0.5  # the comparison is not between constants


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_features(variant: Variant, tmp_path: Path) -> None:
    reference = make(variant)
    model = through_convert(reference, tmp_path)
    positions = {"position_ids": np.arange(16)[None, ::-1].copy()}
    hidden = texts(variant[2])
    hidden["attention_mask"][:, 1] = 0  # a key in the middle
    for given in (texts(variant[2]), texts(variant[2]) | positions, hidden):
        with torch.no_grad():
            right = reference.get_text_features(**theirs(given)).pooler_output
        assert difference(model.get_text_features(**ours(given)), right) <= STATE
    with torch.no_grad():
        right = reference.get_image_features(**theirs(images())).pooler_output
    assert difference(model.get_image_features(**ours(images())), right) <= STATE


@pytest.mark.parametrize("variant", SHORT, ids=str)
def test_source_folder_equals_converted_folder(variant: Variant, tmp_path: Path) -> None:
    batch = ours(texts(variant[2]) | images())
    converted = through_convert(make(variant), tmp_path)(**batch)
    direct = mlx_mm.load(tmp_path / "source")[0](**batch)
    for name in ("text_embeds", "image_embeds", "logits_per_text"):
        assert mx.array_equal(getattr(direct, name), getattr(converted, name)).item()


@pytest.mark.parametrize("size", [(32, 32), (36, 36), (40, 24), (24, 40), (16, 64), (9, 60), (88, 80)])
@pytest.mark.parametrize("variant", SHORT, ids=str)
def test_interpolated_positions(variant: Variant, size: tuple[int, int], tmp_path: Path) -> None:
    reference = make(variant)
    model = through_convert(reference, tmp_path)
    batch = texts(variant[2]) | images(size)
    options = {"interpolate_pos_encoding": True, "return_loss": True, **EVERYTHING}
    compare_joint(model(**ours(batch), **options), run(reference, batch, **options))


@pytest.mark.parametrize("labels", ["classes", "many", "none"])
@pytest.mark.parametrize("variant", SHORT, ids=str)
def test_classifier(variant: Variant, labels: str, tmp_path: Path) -> None:
    reference = make(variant, "ForImageClassification", num_labels=5)
    model = through_convert(reference, tmp_path)
    for size, options in (((32, 32), {}), ((40, 24), {"interpolate_pos_encoding": True})):
        batch = images(size)
        if labels == "classes":
            batch["labels"] = np.array([4, 0, 2])
        elif labels == "many":
            batch["labels"] = (hashed((3, 5), 800) > 0).astype(np.float32)
        reference.config.problem_type = None  # the first call sets it from its labels
        got = model(**ours(batch), **options, **EVERYTHING)
        right = run(reference, batch, **options, **EVERYTHING)
        assert difference(got.logits, right.logits) <= LOGIT
        assert (got.loss is None) == (labels == "none")
        if labels != "none":
            assert difference(got.loss, right.loss) <= LOGIT
        for a, b in zip(got.hidden_states, right.hidden_states, strict=True):
            assert difference(a, b) <= STATE
        for a, b in zip(got.attentions, right.attentions, strict=True):
            assert difference(a, b) <= SHARE


def test_classifier_with_one_output(tmp_path: Path) -> None:
    reference = make(("metaclip_2", "gelu", 2), "ForImageClassification", num_labels=1)
    model = through_convert(reference, tmp_path)
    batch = images() | {"labels": np.array([0.5, -1.0, 2.0], np.float32)}
    got, right = model(**ours(batch)), run(reference, batch)
    assert difference(got.logits, right.logits) <= LOGIT
    assert difference(got.loss, right.loss) <= LOGIT


@pytest.mark.parametrize("prefixed", [False, True], ids=["5.x names", "4.x names"])
@pytest.mark.parametrize("kind", ["TextModel", "VisionModel"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_single_tower(variant: Variant, kind: str, prefixed: bool, tmp_path: Path) -> None:
    reference = make(variant, kind)
    source = save(reference, tmp_path / "source")
    tower = "text_model" if kind == "TextModel" else "vision_model"
    file = source / "model.safetensors"
    tensors = {name.removeprefix(f"{tower}."): array for name, array in load_file(file).items()}
    if prefixed:
        tensors = {f"{tower}.{name}": array for name, array in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    mlx_mm.convert(source, tmp_path / "converted", bits=None)
    batch = texts(variant[2]) if kind == "TextModel" else images()
    right = run(reference, batch, **EVERYTHING)
    for folder in ("source", "converted"):
        model, _ = mlx_mm.load(tmp_path / folder)
        for called in (model, getattr(model, tower)):
            compare_towers(called(**ours(batch), **EVERYTHING), right)
        features = model.get_text_features if kind == "TextModel" else model.get_image_features
        assert difference(features(**ours(batch)), right.pooler_output) <= STATE


@pytest.mark.parametrize("kind", ["TextModelWithProjection", "VisionModelWithProjection"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_tower_with_projection(variant: Variant, kind: str, tmp_path: Path) -> None:
    reference = make(variant, kind)
    through_convert(reference, tmp_path)
    text = kind.startswith("Text")
    batch = texts(variant[2]) if text else images()
    right = run(reference, batch, **EVERYTHING)
    projected = right.text_embeds if text else right.image_embeds
    for folder in ("source", "converted"):
        model, _ = mlx_mm.load(tmp_path / folder)
        features = model.get_text_features if text else model.get_image_features
        assert difference(features(**ours(batch)), projected) <= STATE
        out = model(**ours(batch), **EVERYTHING)
        assert difference(out.text_embeds if text else out.image_embeds, projected) <= STATE
        compare_states(out, right)


def test_shards_as_transformers_writes_them(tmp_path: Path) -> None:
    reference = make(VARIANTS[0])
    reference.save_pretrained(tmp_path / "source", max_shard_size="300KB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 1
    write_clip_side_files(tmp_path / "source", json.loads((tmp_path / "source/config.json").read_text()))
    mlx_mm.convert(tmp_path / "source", tmp_path / "converted", bits=None)
    batch = texts(2) | images()
    got = mlx_mm.load(tmp_path / "converted")[0](**ours(batch))
    assert difference(got.logits_per_text, run(reference, batch).logits_per_text) <= LOGIT


@pytest.mark.parametrize("model_type", list(CLASSES))
def test_older_key_of_a_tower(model_type: str, tmp_path: Path) -> None:
    """`text_config_dict` as transformers itself reads it: another end of text, and an activation left out."""
    whole = TEXT | {"hidden_act": "gelu", "eos_token_id": 2, "projection_dim": 96}
    older = TEXT | {"eos_token_id": 57}
    values = {"model_type": model_type, "projection_dim": 96, "vision_config": VISION}
    values |= {"text_config": whole, "text_config_dict": older, "vision_config_dict": None}
    variant = (model_type, "", 57)
    config = class_of(variant, "Config")(**values)
    assert (config.text_config.hidden_act, config.text_config.eos_token_id) == ("quick_gelu", 57)
    reference = randomise(class_of(variant, "Model")._from_config(config, attn_implementation="eager"))
    source = save(reference, tmp_path / "source")
    (source / "config.json").write_text(json.dumps(values), encoding="utf-8")
    model, _ = mlx_mm.load(source)
    batch = texts(57) | images()
    assert difference(model(**ours(batch)).text_embeds, run(reference, batch).text_embeds) <= EMBEDDING


@pytest.mark.parametrize("variant", SHORT, ids=str)
def test_half_precision_files(variant: Variant, tmp_path: Path) -> None:
    """bfloat16 on disk, float32 arithmetic: as exact as the stored numbers."""
    reference = make(variant).to(torch.bfloat16)
    source = save(reference, tmp_path / "source")
    mlx_mm.convert(source, tmp_path / "converted", bits=None)
    assert next(iter(mx.load(str(tmp_path / "converted/model.safetensors")).values())).dtype == mx.bfloat16
    model, _ = mlx_mm.load(tmp_path / "converted", dtype="float32")
    batch = texts(variant[2]) | images()
    got, right = model(**ours(batch)), run(reference.to(torch.float32), batch)
    assert difference(got.text_embeds, right.text_embeds) <= EMBEDDING
    assert difference(got.image_embeds, right.image_embeds) <= EMBEDDING


# Lowest cosine to the float vectors; random weights, trained ones are closer.
COSINE = {4: 0.95, 8: 0.9995}


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("variant", SHORT, ids=str)
def test_quantised(variant: Variant, bits: int, group_size: int, tmp_path: Path) -> None:
    """Close to the float reference, and equal to the reference that holds the quantised numbers."""
    reference = make(variant)
    source = save(reference, tmp_path / "source")
    report = mlx_mm.convert(source, tmp_path / "converted", bits=bits, group_size=group_size, dtype="float32")
    model, _ = mlx_mm.load(tmp_path / "converted")
    batch = texts(variant[2]) | images()
    got = model(**ours(batch), return_loss=True, **EVERYTHING)
    right = run(reference, batch)
    for name in ("text_embeds", "image_embeds"):
        cosine = (np.array(getattr(got, name)) * getattr(right, name).numpy()).sum(-1)
        assert cosine.min() > COSINE[bits], name

    quantised = {choice.path for choice in report.choices if choice.scheme is not None}
    matrices = {layer_of(name) for name, parameter in reference.named_parameters() if parameter.ndim >= 2}
    assert matrices - quantised == {
        "text_model.embeddings.position_embedding",
        "vision_model.embeddings.patch_embedding",
        "vision_model.embeddings.position_embedding",
    }
    for name, parameter in reference.named_parameters():
        if layer_of(name) in quantised:
            parameter.data = torch.from_numpy(requantised(parameter.detach().numpy(), bits, group_size).copy())
    compare_joint(got, run(reference, batch, return_loss=True, **EVERYTHING))


# --- full size --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], Path]]:
    """Saves a model of 200 MB and removes it again."""
    folder = tmp_path_factory.mktemp("full-size")

    def write(model: Any) -> Path:
        return save(model, folder / "source")

    yield write
    shutil.rmtree(folder, ignore_errors=True)


def full_size() -> Any:
    """worldwide-s16 with a smaller vocabulary, transformers' own initialisation, biases and norms disturbed."""
    sizes = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
    both = sizes | {"hidden_act": "gelu", "projection_dim": 384}
    text = both | {"vocab_size": 20000, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": None}
    vision = both | {"image_size": 224, "patch_size": 16}
    config = transformers.MetaClip2Config(text_config=text, vision_config=vision, projection_dim=384)
    torch.manual_seed(1)
    model = transformers.MetaClip2Model._from_config(config, attn_implementation="sdpa").eval()
    for name, parameter in model.named_parameters():
        if name == "logit_scale":
            parameter.data.fill_(4.605)
        elif parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def test_full_size(big_folder: Callable[[Any], Path]) -> None:
    reference = full_size()
    source = big_folder(reference)
    batch = texts(2, length=77, vocab=20000) | images((224, 224))
    right = run(reference, batch, return_loss=True, output_hidden_states=True)
    del reference
    converted = source.with_name("converted")
    mlx_mm.convert(source, converted, bits=None)
    model, _ = mlx_mm.load(converted)
    got = model(**ours(batch), return_loss=True, output_hidden_states=True)
    worst = {
        "text_embeds": (difference(got.text_embeds, right.text_embeds), EMBEDDING),
        "image_embeds": (difference(got.image_embeds, right.image_embeds), EMBEDDING),
        "logits": (difference(got.logits_per_text, right.logits_per_text), LOGIT),
        "loss": (difference(got.loss, right.loss), LOGIT),
    }
    for tower in ("text_model_output", "vision_model_output"):
        a, b = getattr(got, tower), getattr(right, tower)
        assert len(a.hidden_states) == 13
        pairs = zip(a.hidden_states, b.hidden_states, strict=True)
        worst[f"{tower}.hidden_states"] = (max(difference(x, y) for x, y in pairs), STATE)
        worst[f"{tower}.last_hidden_state"] = (difference(a.last_hidden_state, b.last_hidden_state), STATE)
    print("\n" + "\n".join(f"s16 {name}: {x:.1e} (limit {limit})" for name, (x, limit) in worst.items()))
    assert all(x <= limit for x, limit in worst.values()), worst

    for i in range(3):
        single = {name: value[i : i + 1] for name, value in batch.items()}
        length = int(single["attention_mask"].sum())
        single["input_ids"], single["attention_mask"] = single["input_ids"][:, :length], np.ones((1, length), int)
        alone = model(**ours(single))
        for name in ("text_embeds", "image_embeds"):
            assert np.abs(np.array(getattr(alone, name))[0] - np.array(getattr(got, name))[i]).max() <= EMBEDDING
