"""Random transformers models, saved, taken through `convert` and `load`, and compared number by number."""

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
from safetensors.numpy import load_file, save_file
from tiny import hashed, layer_of, requantised, write_side_files

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import mlx_mm  # noqa: E402
from mlx_mm.errors import ModalityError  # noqa: E402

EMBEDDING, LOGIT, STATE, SHARE = 1e-5, 1e-4, 1e-4, 1e-5
FIXRES, NAFLEX, SIGLIP_1 = "fixres", "naflex", "siglip 1"
VARIANTS = [FIXRES, NAFLEX, SIGLIP_1]

TEXT = {"vocab_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 16}
VISION = {"hidden_size": 128, "intermediate_size": 136, "num_hidden_layers": 3, "num_attention_heads": 8}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # 14 pixels are not divisible by 4; the towers differ in every size
    FIXRES: (
        TEXT | {"hidden_size": 64, "intermediate_size": 80, "projection_size": 128},
        VISION | {"image_size": 14, "patch_size": 4},
    ),
    NAFLEX: (
        TEXT | {"hidden_size": 64, "intermediate_size": 104, "projection_size": 128},
        VISION | {"num_patches": 36, "patch_size": 4},
    ),
    # symmetric towers without a projection_size, other activation and epsilon
    SIGLIP_1: (
        TEXT | {"hidden_size": 128, "intermediate_size": 128, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
        VISION | {"image_size": 16, "patch_size": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
    ),
}


def class_of(variant: str, kind: str) -> Any:
    """`kind`: Model, TextModel, VisionModel, ForImageClassification, Config, TextConfig or VisionConfig."""
    return getattr(transformers, ("Siglip2" if variant == NAFLEX else "Siglip") + kind)


def joint_config(variant: str, **extra: Any) -> Any:
    text, vision = SIZES[variant]
    return class_of(variant, "Config")(text_config=dict(text), vision_config=dict(vision), **extra)


def make(variant: str, kind: str = "Model", **extra: Any) -> Any:
    """A random model whose attentions can be read."""
    config = joint_config(variant, **extra)
    if kind in ("TextModel", "VisionModel"):
        config = config.text_config if kind == "TextModel" else config.vision_config
    return randomise(class_of(variant, kind)._from_config(config, attn_implementation="eager"))


def texts(batch: int = 3, length: int = 16, vocab: int = 384) -> np.ndarray:
    ids = np.zeros((batch, length), np.int64)
    for row in range(batch):
        count = max(1, length - 5 * row)
        ids[row, :count] = (np.abs(hashed((count,), 500 + row)) * vocab).astype(np.int64)
    return ids


def images(variant: str) -> dict[str, np.ndarray]:
    """Inputs in transformers' layout: NCHW for FixRes."""
    if variant != NAFLEX:
        size = SIZES[variant][1]["image_size"]
        return {"pixel_values": hashed((3, 3, size, size), 600).astype(np.float32)}
    shapes = np.array([[5, 7], [6, 6], [2, 11]])
    mask = (np.arange(40)[None] < shapes.prod(1, keepdims=True)).astype(np.int64)
    pixels = hashed((3, 40, 48), 601).astype(np.float32) * mask[..., None]
    return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def compare_towers(got: Any, right: Any, mask: np.ndarray | None = None) -> None:
    assert difference(got.last_hidden_state, right.last_hidden_state) <= STATE
    if right.pooler_output is None:
        assert got.pooler_output is None
    else:
        assert difference(got.pooler_output, right.pooler_output) <= STATE
    assert len(got.hidden_states) == len(right.hidden_states)
    for a, b in zip(got.hidden_states, right.hidden_states, strict=True):
        assert difference(a, b) <= STATE
    assert len(got.attentions) == len(right.attentions) > 0
    for a, b in zip(got.attentions, right.attentions, strict=True):
        assert difference(a, b) <= SHARE


EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


# --- tiny models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_mask", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_joint_model(variant: str, text_mask: bool, tmp_path: Path) -> None:
    reference = make(variant)
    batch = {"input_ids": texts()} | images(variant)
    if text_mask:
        batch["attention_mask"] = (np.arange(16)[None] < np.array([[16], [11], [6]])).astype(np.int64)
    model = through_convert(reference, tmp_path)
    got = model(**ours(batch), return_loss=True, **EVERYTHING)
    with torch.no_grad():
        right = reference(**theirs(batch), return_loss=True, **EVERYTHING)
    assert difference(got.text_embeds, right.text_embeds) <= EMBEDDING
    assert difference(got.image_embeds, right.image_embeds) <= EMBEDDING
    assert difference(got.logits_per_text, right.logits_per_text) <= LOGIT
    assert difference(got.logits_per_image, right.logits_per_image) <= LOGIT
    assert difference(got.loss, right.loss) <= LOGIT
    compare_towers(got.text_model_output, right.text_model_output)
    compare_towers(got.vision_model_output, right.vision_model_output)
    assert float(right.text_embeds.abs().max()) > 0.1
    spread = right.logits_per_text.max() - right.logits_per_text.min()
    assert float(spread) > 0.5  # the comparison is not between constants


@pytest.mark.parametrize("variant", VARIANTS)
def test_features(variant: str, tmp_path: Path) -> None:
    reference = make(variant)
    model = through_convert(reference, tmp_path)
    ids, pictures = {"input_ids": texts()}, images(variant)
    with torch.no_grad():
        text = reference.get_text_features(**theirs(ids))
        image = reference.get_image_features(**theirs(pictures))
    assert difference(model.get_text_features(**ours(ids)), text.pooler_output) <= STATE
    assert difference(model.get_image_features(**ours(pictures)), image.pooler_output) <= STATE
    positions = {"position_ids": np.arange(16)[None, ::-1].copy()}
    with torch.no_grad():
        text = reference.get_text_features(**theirs(ids | positions))
    assert difference(model.get_text_features(**ours(ids | positions)), text.pooler_output) <= STATE


@pytest.mark.parametrize("variant", VARIANTS)
def test_source_folder_equals_converted_folder(variant: str, tmp_path: Path) -> None:
    batch = ours({"input_ids": texts()} | images(variant))
    converted = through_convert(make(variant), tmp_path)(**batch)
    direct = mlx_mm.load(tmp_path / "source")[0](**batch)
    for name in ("text_embeds", "image_embeds", "logits_per_text"):
        assert mx.array_equal(getattr(direct, name), getattr(converted, name)).item()


@pytest.mark.parametrize("size", [(14, 14), (16, 20), (20, 16), (9, 30), (40, 44), (17, 5)])
def test_interpolated_positions(size: tuple[int, int], tmp_path: Path) -> None:
    reference = make(FIXRES, "VisionModel")
    model = through_convert(reference, tmp_path)
    batch = {"pixel_values": hashed((2, 3, *size), 700).astype(np.float32)}
    got = model.vision_model(**ours(batch), interpolate_pos_encoding=True, **EVERYTHING)
    with torch.no_grad():
        right = reference(**theirs(batch), interpolate_pos_encoding=True, **EVERYTHING)
    compare_towers(got, right)


@pytest.mark.parametrize("labels", ["classes", "many", "none"])
@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_classifier(variant: str, labels: str, tmp_path: Path) -> None:
    reference = make(variant, "ForImageClassification", num_labels=5)
    model = through_convert(reference, tmp_path)
    batch = images(variant)
    if labels == "classes":
        batch["labels"] = np.array([4, 0, 2])
    elif labels == "many":
        batch["labels"] = (hashed((3, 5), 800) > 0).astype(np.float32)
    got = model(**ours(batch), **EVERYTHING)
    with torch.no_grad():
        right = reference(**theirs(batch), **EVERYTHING)
    assert difference(got.logits, right.logits) <= LOGIT
    assert (got.loss is None) == (labels == "none")
    if labels != "none":
        assert difference(got.loss, right.loss) <= LOGIT
    for a, b in zip(got.hidden_states, right.hidden_states, strict=True):
        assert difference(a, b) <= STATE
    for a, b in zip(got.attentions, right.attentions, strict=True):
        assert difference(a, b) <= SHARE


@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_classifier_with_one_output(variant: str, tmp_path: Path) -> None:
    reference = make(variant, "ForImageClassification", num_labels=1)
    model = through_convert(reference, tmp_path)
    batch = images(variant) | {"labels": np.array([0.5, -1.0, 2.0], np.float32)}
    with torch.no_grad():
        right = reference(**theirs(batch))
    got = model(**ours(batch))
    assert difference(got.logits, right.logits) <= LOGIT
    assert difference(got.loss, right.loss) <= LOGIT


@pytest.mark.parametrize("prefixed", [False, True], ids=["5.x names", "4.x names"])
@pytest.mark.parametrize("kind", ["TextModel", "VisionModel"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_single_tower(variant: str, kind: str, prefixed: bool, tmp_path: Path) -> None:
    reference = make(variant, kind)
    source = save(reference, tmp_path / "source")
    tower = "text_model" if kind == "TextModel" else "vision_model"
    file = source / "model.safetensors"
    tensors = {name.removeprefix(f"{tower}."): array for name, array in load_file(file).items()}
    if prefixed:
        tensors = {f"{tower}.{name}": array for name, array in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    mlx_mm.convert(source, tmp_path / "converted", bits=None)
    batch = {"input_ids": texts()} if kind == "TextModel" else images(variant)
    with torch.no_grad():
        right = reference(**theirs(batch), **EVERYTHING)
    for folder in ("source", "converted"):
        model, _ = mlx_mm.load(tmp_path / folder)
        for called in (model, getattr(model, tower)):
            compare_towers(called(**ours(batch), **EVERYTHING), right)


@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_vision_tower_without_head(variant: str, tmp_path: Path) -> None:
    config = joint_config(variant).vision_config
    config.vision_use_head = False
    reference = randomise(class_of(variant, "VisionModel")._from_config(config, attn_implementation="eager"))
    model = through_convert(reference, tmp_path)
    with torch.no_grad():
        right = reference(**theirs(images(variant)), **EVERYTHING)
    for called in (model, model.vision_model):
        compare_towers(called(**ours(images(variant)), **EVERYTHING), right)
    with pytest.raises(ModalityError, match="no pooling head"):
        model.get_image_features(**ours(images(variant)))


def test_shards_as_transformers_writes_them(tmp_path: Path) -> None:
    reference = make(NAFLEX)
    reference.save_pretrained(tmp_path / "source", max_shard_size="300KB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 1
    write_side_files(tmp_path / "source", json.loads((tmp_path / "source/config.json").read_text()))
    mlx_mm.convert(tmp_path / "source", tmp_path / "converted", bits=None)
    batch = {"input_ids": texts()} | images(NAFLEX)
    with torch.no_grad():
        right = reference(**theirs(batch))
    got = mlx_mm.load(tmp_path / "converted")[0](**ours(batch))
    assert difference(got.logits_per_text, right.logits_per_text) <= LOGIT


@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_half_precision_files(variant: str, tmp_path: Path) -> None:
    """bfloat16 on disk, float32 arithmetic: as exact as the stored numbers."""
    reference = make(variant).to(torch.bfloat16)
    source = save(reference, tmp_path / "source")
    mlx_mm.convert(source, tmp_path / "converted", bits=None)
    assert next(iter(mx.load(str(tmp_path / "converted/model.safetensors")).values())).dtype == mx.bfloat16
    model, _ = mlx_mm.load(tmp_path / "converted", dtype="float32")
    batch = {"input_ids": texts()} | images(variant)
    with torch.no_grad():
        right = reference.to(torch.float32)(**theirs(batch))
    got = model(**ours(batch))
    assert difference(got.text_embeds, right.text_embeds) <= EMBEDDING
    assert difference(got.image_embeds, right.image_embeds) <= EMBEDDING


# Lowest cosine to the float vectors, random weights (trained ones are closer); measured 0.968 and 0.99990.
COSINE = {4: 0.95, 8: 0.9995}


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_quantised(variant: str, bits: int, group_size: int, tmp_path: Path) -> None:
    """Close to the float reference, and equal to the reference that holds the quantised numbers."""
    reference = make(variant)
    source = save(reference, tmp_path / "source")
    report = mlx_mm.convert(source, tmp_path / "converted", bits=bits, group_size=group_size, dtype="float32")
    model, _ = mlx_mm.load(tmp_path / "converted")
    batch = {"input_ids": texts()} | images(variant)
    got = model(**ours(batch), return_loss=True, **EVERYTHING)
    with torch.no_grad():
        right = reference(**theirs(batch))
    for name in ("text_embeds", "image_embeds"):
        cosine = (np.array(getattr(got, name)) * getattr(right, name).numpy()).sum(-1)
        assert cosine.min() > COSINE[bits], name

    quantised = {choice.path for choice in report.choices if choice.scheme is not None}
    assert len(quantised) > 10
    for name, parameter in reference.named_parameters():
        if layer_of(name) in quantised:
            parameter.data = torch.from_numpy(requantised(parameter.detach().numpy(), bits, group_size).copy())
    with torch.no_grad():
        right = reference(**theirs(batch), return_loss=True, **EVERYTHING)
    assert difference(got.text_embeds, right.text_embeds) <= EMBEDDING
    assert difference(got.image_embeds, right.image_embeds) <= EMBEDDING
    assert difference(got.logits_per_text, right.logits_per_text) <= LOGIT
    compare_towers(got.text_model_output, right.text_model_output)
    compare_towers(got.vision_model_output, right.vision_model_output)


# --- full size --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], Path]]:
    """Saves a model of 1.5 GB and removes it again."""
    folder = tmp_path_factory.mktemp("full-size")

    def write(model: Any) -> Path:
        return save(model, folder / "source")

    yield write
    shutil.rmtree(folder, ignore_errors=True)


def full_size(variant: str) -> Any:
    """base-patch16-224 or base NaFlex with transformers' own initialisation, biases and norms disturbed."""
    prefix = "siglip2" if variant == NAFLEX else "siglip"
    text = {"vocab_size": 256000, "model_type": f"{prefix}_text_model"}
    config = class_of(variant, "Config")(text_config=text, vision_config={"model_type": f"{prefix}_vision_model"})
    torch.manual_seed(1)
    model = class_of(variant, "Model")._from_config(config, attn_implementation="sdpa").eval()
    for name, parameter in model.named_parameters():
        if name == "logit_scale":
            parameter.data.fill_(4.7)
        elif name == "logit_bias":
            parameter.data.fill_(-16.5)
        elif parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def full_size_images(variant: str) -> dict[str, np.ndarray]:
    if variant != NAFLEX:
        return {"pixel_values": hashed((2, 3, 224, 224), 900).astype(np.float32)}
    shapes = np.array([[16, 16], [12, 21], [28, 9], [2, 96]])
    mask = (np.arange(256)[None] < shapes.prod(1, keepdims=True)).astype(np.int64)
    pixels = hashed((4, 256, 768), 901).astype(np.float32) * mask[..., None]
    return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes}


@pytest.mark.parametrize("variant", [FIXRES, NAFLEX])
def test_full_size(variant: str, big_folder: Callable[[Any], Path]) -> None:
    reference = full_size(variant)
    source = big_folder(reference)
    pictures = full_size_images(variant)
    batch = {"input_ids": texts(len(pictures["pixel_values"]), 64, 256000)} | pictures
    with torch.no_grad():
        right = reference(**theirs(batch), return_loss=True, output_hidden_states=True)
    del reference
    converted = source.with_name("converted")
    mlx_mm.convert(source, converted, bits=None, overwrite=converted.exists())
    model, _ = mlx_mm.load(converted)
    shutil.rmtree(source)
    shutil.rmtree(converted)
    got = model(**ours(batch), return_loss=True, output_hidden_states=True)
    worst = {
        "text_embeds": (difference(got.text_embeds, right.text_embeds), EMBEDDING),
        "image_embeds": (difference(got.image_embeds, right.image_embeds), EMBEDDING),
        "logits": (difference(got.logits_per_text, right.logits_per_text), LOGIT),
        "loss": (difference(got.loss, right.loss), LOGIT * len(batch["input_ids"])),  # a sum over the texts
    }
    for tower in ("text_model_output", "vision_model_output"):
        a, b = getattr(got, tower), getattr(right, tower)
        assert len(a.hidden_states) == 13
        pairs = zip(a.hidden_states, b.hidden_states, strict=True)
        worst[f"{tower}.hidden_states"] = (max(difference(x, y) for x, y in pairs), STATE)
        worst[f"{tower}.last_hidden_state"] = (difference(a.last_hidden_state, b.last_hidden_state), STATE)
    print("\n" + "\n".join(f"{variant} {name}: {x:.1e} (limit {limit})" for name, (x, limit) in worst.items()))
    assert all(x <= limit for x, limit in worst.values()), worst

    whole = np.array(got.image_embeds)
    for i in range(len(whole)):
        single = {name: value[i : i + 1] for name, value in pictures.items()}
        alone = np.array(model(**ours(single)).image_embeds)[0]
        assert np.abs(alone - whole[i]).max() <= EMBEDDING
        if variant == NAFLEX:
            count = int(single["pixel_attention_mask"].sum())
            unpadded = {"pixel_values": single["pixel_values"][:, :count], "spatial_shapes": single["spatial_shapes"]}
            bare = np.array(model(**ours(unpadded)).image_embeds)[0]
            assert np.abs(bare - whole[i]).max() <= EMBEDDING
