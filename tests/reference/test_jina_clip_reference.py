"""Jina CLIP v2 beside transformers' JinaEmbeddingsV3Model and timm's Eva, which have its towers.

Neither has the low-rank matrices: they are merged with torch first. Ours reads the tensors as the hub's file has them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from beside import difference
from jina_tiny import ROBERTA, jina_config, jina_shapes, write_jina_side_files
from jina_torch import (
    TEXT_NAMES,
    VISION_NAMES,
    Config,
    Reference,
    Weights,
    make_reference,
    merge,
    state_of,
)
from tiny import hashed, requantised, write_checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import mlx_mm  # noqa: E402
from mlx_mm.layers.rope import inverse_frequencies, line_angles  # noqa: E402
from mlx_mm.models.jina_clip import text, vision  # noqa: E402

# Measured: 5e-7, 5e-6, 2e-5 at hidden states of the order of 10, 2e-6
EMBEDDING, LOGIT, STATE, SHARE = 2e-6, 2e-5, 5e-5, 1e-5

TEXT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
VISION = {"image_size": 44, "width": 64, "layers": 3, "head_width": 16}
# Other sizes for both towers: four leftover pixels or none, grids of 2 to 5, heads of 16 to 64, patches of other sizes
SIZES: dict[str, tuple[Config, Config]] = {
    "tiny": ({}, {}),
    "no leftover": ({"intermediate_size": 96}, {"image_size": 42}),
    "grid of 2": ({"num_attention_heads": 2}, {"image_size": 28, "head_width": 32}),
    "wide heads": (
        {"num_attention_heads": 1, "num_hidden_layers": 2},
        {"image_size": 74, "head_width": 64, "layers": 2},
    ),
    "wider": (
        {"hidden_size": 192, "intermediate_size": 500, "num_attention_heads": 6},
        {"width": 192, "head_width": 48, "image_size": 83, "patch_size": 16},
    ),
}


def make_config(size: str = "tiny") -> Config:
    text, vision = SIZES[size]
    return jina_config(TEXT | text, VISION | vision)


def random_weights(config: Config, dtype: type = np.float32) -> Weights:
    """Hub names. Activations are of the order of one, low-rank products half as large as the weights."""
    rng = np.random.default_rng(0)
    weights: Weights = {}
    for name, shape in jina_shapes(config):
        x = rng.standard_normal(shape, np.float32)
        if name == "logit_scale":
            x = np.array(2.6592, np.float32)
        elif len(shape) == 1:
            x = x * 0.1 + (1 if name.endswith("weight") else 0)
        elif ".lora_" in name:
            x = x * (0.35 if ".embeddings." in name else 0.5 / shape[-1] ** 0.5 if name.endswith("A") else 0.5)
        elif "cls_token" in name or ("embed" in name and "patch" not in name):
            x = x * 0.5
        else:
            x = x / x[0].size ** 0.5
        weights[name] = np.asarray(x, dtype)
    return weights


# --- the references ---------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What a tower gave: the pooled vector, its unit length, and what lies before."""

    pooled: Any
    unit: Any
    last: Any
    states: list[Any]
    attentions: list[Any]


def unit(x: Any) -> Any:
    return x / x.norm(dim=-1, keepdim=True)


def read_texts(reference: Reference, ids: np.ndarray, details: bool = True) -> Seen:
    ids = torch.from_numpy(ids)
    mask = (ids != 1).long()
    with torch.no_grad():
        out = reference.text(ids, attention_mask=mask, output_hidden_states=details, output_attentions=details)
    last = out.last_hidden_state
    pooled = (last * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return Seen(pooled, unit(pooled), last, list(out.hidden_states or ()), list(out.attentions or ()))


def read_images(reference: Reference, pixels: np.ndarray) -> Seen:
    """pixels (B, 3, H, W)."""
    states, attentions = [], []
    hooks = []
    for block in reference.vision.blocks:
        hooks.append(block.register_forward_pre_hook(lambda _module, given: states.append(given[0])))
        hooks.append(block.attn.attn_drop.register_forward_hook(lambda _m, _given, out: attentions.append(out)))
    hooks.append(reference.vision.norm.register_forward_pre_hook(lambda _module, given: states.append(given[0])))
    with torch.no_grad():
        last = reference.vision.forward_features(torch.from_numpy(pixels))
        pooled = reference.vision.forward_head(last)
    for hook in hooks:
        hook.remove()
    return Seen(pooled, unit(pooled), last, states, attentions)


# --- ours beside them -------------------------------------------------------------------------------------------

EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


def save(config: Config, weights: Weights, folder: Path, shards: int = 1) -> Path:
    return write_checkpoint(folder, config, weights, shards=shards, side_files=write_jina_side_files)


def through_convert(config: Config, weights: Weights, tmp_path: Path) -> Any:
    """Written, converted without rounding, and loaded."""
    source = save(config, weights, tmp_path / "source")
    mlx_mm.convert(source, tmp_path / "converted", bits=None, dtype="float32")
    return mlx_mm.load(tmp_path / "converted")[0]


def texts(*counts: int, vocab: int = 60, longer: int = 0) -> np.ndarray:
    """Texts of so many tokens, padded to the longest and further."""
    ids = np.ones((len(counts), max(counts) + longer), np.int64)
    for row, count in enumerate(counts):
        ids[row, :count] = 3 + (np.abs(hashed((count,), 500 + row)) * (vocab - 3)).astype(np.int64)
        ids[row, 0], ids[row, count - 1] = 0, 2
    return ids


def images(config: Config, count: int = 3) -> np.ndarray:
    """(B, 3, H, W)."""
    size = config["vision_config"]["image_size"]
    return (1.7 * hashed((count, 3, size, size), 600)).astype(np.float32)


def nhwc(pixels: np.ndarray) -> mx.array:
    return mx.array(pixels.transpose(0, 2, 3, 1))


def differences(tower: Any, embeds: Any, right: Seen, mask: np.ndarray | None = None) -> dict[str, float]:
    """The largest of each kind, as a multiple of its tolerance. mask: the tokens that count (B, L)."""

    def worst(a: Any, b: Any) -> float:
        if mask is None:
            return difference(a, b)
        rows = np.where(mask[..., None], np.array(a, dtype=np.float64) - b.numpy().astype(np.float64), 0.0)
        return float(np.abs(rows).max())

    found = {
        "embeds": difference(embeds, right.unit) / EMBEDDING,
        "pooled": difference(tower.pooler_output, right.pooled) / STATE,
        "last": worst(tower.last_hidden_state, right.last) / STATE,
    }
    if tower.hidden_states is not None:
        pairs = zip(tower.hidden_states, right.states, strict=True)
        found["states"] = max(worst(a, b) for a, b in pairs) / STATE
    if tower.attentions is not None:
        pairs = zip(tower.attentions, right.attentions, strict=True)
        found["attentions"] = max(difference(a, b) for a, b in pairs) / SHARE
    return found


def compare(model: Any, reference: Reference, ids: np.ndarray, pixels: np.ndarray) -> dict[str, float]:
    """Both towers and the logits, as multiples of the tolerances."""
    out = model(mx.array(ids), nhwc(pixels), **EVERYTHING)
    text, image = read_texts(reference, ids), read_images(reference, pixels)
    found = differences(out.text_model_output, out.text_embeds, text)
    assert len(out.text_model_output.hidden_states) == len(reference.text.layers) + 1
    found |= {f"image {name}": x for name, x in differences(out.vision_model_output, out.image_embeds, image).items()}
    logits = text.unit @ image.unit.T * np.exp(reference.scale)
    spread = logits.max() - logits.min()
    assert float(spread) > 0.5  # the comparison is not between constants
    return found | {"logits": difference(out.logits_per_text, logits) / LOGIT}


def assert_near(found: dict[str, float]) -> None:
    assert not {name: x for name, x in found.items() if x > 1}, found


# --- tiny models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("size", SIZES)
def test_joint_model(size: str, dtype: type, tmp_path: Path) -> None:
    """The published file is float16; what is merged from it is not."""
    config = make_config(size)
    weights = random_weights(config, dtype)
    model, reference = through_convert(config, weights, tmp_path), make_reference(config, weights)
    assert_near(compare(model, reference, texts(16, 5, 9), images(config)))


def test_features_are_those_of_the_towers(tmp_path: Path) -> None:
    config = make_config()
    weights = random_weights(config)
    model, reference = through_convert(config, weights, tmp_path), make_reference(config, weights)
    ids, pixels = texts(12, 3), images(config, 2)
    assert difference(model.get_text_features(mx.array(ids)), read_texts(reference, ids).pooled) <= STATE
    assert difference(model.get_image_features(nhwc(pixels)), read_images(reference, pixels).pooled) <= STATE


@pytest.mark.parametrize(("counts", "longer"), [((2,), 0), ((3, 2), 6), ((40, 1, 17, 39), 0), ((200, 30), 9)])
def test_padding(counts: tuple[int, ...], longer: int, tmp_path: Path) -> None:
    config = make_config()
    weights = random_weights(config)
    model, reference = through_convert(config, weights, tmp_path), make_reference(config, weights)
    ids = texts(*counts, longer=longer)
    out = model(mx.array(ids), **EVERYTHING)
    assert_near(differences(out.text_model_output, out.text_embeds, read_texts(reference, ids)))
    for row, count in enumerate(counts):
        alone = read_texts(reference, ids[row : row + 1, :count])
        assert difference(out.text_embeds[row : row + 1], alone.unit) <= EMBEDDING


def test_alpha_counts(tmp_path: Path) -> None:
    config = make_config()
    config["text_config"]["hf_model_config_kwargs"]["lora_alpha"] = 6
    weights = random_weights(config)
    model, reference = through_convert(config, weights, tmp_path), make_reference(config, weights)
    assert_near(compare(model, reference, texts(16, 5, 9), images(config)))


def test_source_folder_and_shards_equal_the_converted_folder(tmp_path: Path) -> None:
    config = make_config()
    weights = random_weights(config)
    converted = through_convert(config, weights, tmp_path)
    save(config, weights, tmp_path / "sharded", shards=3)
    given = mx.array(texts(16, 5, 9)), nhwc(images(config))
    for folder in ("source", "sharded"):
        model, _ = mlx_mm.load(tmp_path / folder)
        assert mx.array_equal(model(*given).logits_per_text, converted(*given).logits_per_text).item()


def test_float16_folder_keeps_its_precision_in_float16(tmp_path: Path) -> None:
    """Without another dtype the merged matrices are rounded to the file's own."""
    config = make_config()
    weights = random_weights(config, np.float16)
    source = save(config, weights, tmp_path / "source")
    mlx_mm.convert(source, tmp_path / "converted", bits=None)
    stored = mx.load(str(tmp_path / "converted/model.safetensors"))
    assert {array.dtype for array in stored.values()} == {mx.float16}
    rounded = {name: x.half().float() for name, x in merge(weights, 1.0).items()}
    reference = make_reference(config, weights)
    reference.text.load_state_dict(state_of(rounded, ROBERTA, TEXT_NAMES))
    model, _ = mlx_mm.load(tmp_path / "converted", dtype="float32")
    assert_near(compare(model, reference, texts(16, 5, 9), images(config)))


# --- far positions ----------------------------------------------------------------------------------------------

LONG = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def long_model(tmp_path: Path) -> tuple[Any, Reference]:
    """Heads as wide as the published ones."""
    config = jina_config(TEXT | LONG, VISION | {"width": 128, "layers": 1, "image_size": 28})
    weights = random_weights(config)
    return through_convert(config, weights, tmp_path), make_reference(config, weights)


@pytest.mark.parametrize("counts", [(512, 77, 300), (2048, 1500)])
def test_long_texts(counts: tuple[int, ...], tmp_path: Path) -> None:
    model, reference = long_model(tmp_path)
    ids = texts(*counts)
    out = model(mx.array(ids), output_hidden_states=True)
    assert_near(differences(out.text_model_output, out.text_embeds, read_texts(reference, ids)))


@pytest.mark.parametrize("dims", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("base", [10000.0, 20000.0])
def test_frequencies_are_those_of_torch(dims: int, base: float) -> None:
    """At far places the last bit counts, see `inverse_frequencies`. For other widths torch rounds the exponent, too."""
    right = 1.0 / (base ** (torch.arange(0, dims, 2, dtype=torch.float) / dims))
    assert np.array_equal(np.array(inverse_frequencies(dims, base)), right.numpy())


# --- known mistakes ---------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[Any, str, Any, str]] = {
    "text base 10000": (text, "line_angles", lambda length, dims, _: line_angles(length, dims, 10000.0), "embeds"),
    "text rope in neighbours": (text, "rotate_halves", vision.rotate_neighbours, "embeds"),
    "vision rope in halves": (vision, "rotate_neighbours", text.rotate_halves, "image embeds"),
    "positions not rescaled": (vision, "grid_angles", lambda *sizes, scale: GRID(*sizes), "image embeds"),
    "gelu for silu": (vision, "swiglu", lambda gate, up: gate * mx.sigmoid(1.702 * gate) * up, "image embeds"),
}
GRID = vision.grid_angles


@pytest.mark.parametrize("mistake", MISTAKES)
def test_known_mistake_misses_the_tolerance(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config()
    weights = random_weights(config)
    model, reference = through_convert(config, weights, tmp_path), make_reference(config, weights)
    where, name, value, touched = MISTAKES[mistake]
    monkeypatch.setattr(where, name, value)
    found = compare(model, reference, texts(16, 5, 9), images(config))
    assert found[touched] > 20
    assert found["logits"] > 5


def test_mistake_in_the_merge_misses_the_tolerance(tmp_path: Path) -> None:
    config = make_config()
    weights = random_weights(config)
    model = through_convert(config, weights, tmp_path)
    config["text_config"]["hf_model_config_kwargs"]["lora_alpha"] = 1
    found = compare(model, make_reference(config, weights), texts(16, 5, 9), images(config))
    assert found["embeds"] > 1000
    assert found["image embeds"] <= 1


# --- quantised --------------------------------------------------------------------------------------------------

# Lowest cosine to the float vectors; random weights, trained ones are closer.
COSINE = {4: 0.9, 8: 0.9995}
OWN_NAMES = (
    (ROBERTA, "text_model."),
    (".word_embeddings", ".token_embedding"),
    (".mixer.", ".self_attn."),
    (".Wqkv", ".q_proj"),
    ("vision_model.blocks.", "vision_model.layers."),
    (".attn.proj", ".self_attn.out_proj"),
    (".attn.", ".self_attn."),
    (".mlp.w1", ".mlp.gate_proj"),
    (".mlp.w2", ".mlp.up_proj"),
    (".mlp.w3", ".mlp.down_proj"),
)


def own_layer(name: str) -> str:
    """The path of our layer with a merged tensor; of the packed matrix, one of three."""
    for theirs, own in OWN_NAMES:
        name = name.replace(theirs, own)
    return name.removesuffix(".weight")


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised(bits: int, group_size: int, tmp_path: Path) -> None:
    """Close to the float reference, and equal to the reference that holds the quantised numbers."""
    config = make_config()
    weights = random_weights(config)
    source = save(config, weights, tmp_path / "source")
    report = mlx_mm.convert(source, tmp_path / "converted", bits=bits, group_size=group_size, dtype="float32")
    model, _ = mlx_mm.load(tmp_path / "converted")
    ids, pixels = texts(16, 5, 9), images(config)
    got, reference = model(mx.array(ids), nhwc(pixels)), make_reference(config, weights)
    exact = {"text_embeds": read_texts(reference, ids), "image_embeds": read_images(reference, pixels)}
    for name, right in exact.items():
        cosine = (np.array(getattr(got, name)) * right.unit.numpy()).sum(-1)
        assert cosine.min() > COSINE[bits], name

    quantised = {choice.path for choice in report.choices if choice.scheme is not None}
    tensors = merge(weights, 1.0)
    matrices = {own_layer(name) for name, tensor in tensors.items() if tensor.ndim >= 2}
    assert matrices - quantised == {
        "text_model.embeddings.token_type_embeddings",
        "vision_model.cls_token",
        "vision_model.patch_embed.proj",
        "vision_model.pos_embed",
    }
    for name, tensor in tensors.items():
        if tensor.ndim >= 2 and own_layer(name) in quantised:
            tensors[name] = torch.from_numpy(requantised(tensor.numpy(), bits, group_size).copy())
    reference.text.load_state_dict(state_of(tensors, ROBERTA, TEXT_NAMES))
    reference.vision.load_state_dict(state_of(tensors, "vision_model.", VISION_NAMES))
    assert_near(compare(model, reference, ids, pixels))


# --- full width -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Config, Weights], Path]]:
    """Saves a model of 200 MB; removes it and what became of it."""
    folder = tmp_path_factory.mktemp("full-size")

    def write(config: Config, weights: Weights) -> Path:
        return save(config, weights, folder / "source")

    yield write
    shutil.rmtree(folder, ignore_errors=True)


def published_sizes(layers: int) -> Config:
    """The published widths and picture, with a smaller vocabulary."""
    text = {"vocab_size": 2000, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    vision = {"image_size": 512, "width": 1024, "head_width": 64, "layers": layers}
    return jina_config(text | {"num_hidden_layers": layers}, vision)


def compare_full_size(write: Callable[[Config, Weights], Path], layers: int) -> dict[str, float]:
    config = published_sizes(layers)
    weights = random_weights(config, np.float16)
    source = write(config, weights)
    reference = make_reference(config, weights)
    del weights
    ids, pixels = texts(77, 40, vocab=2000), images(config, 1)
    text, image = read_texts(reference, ids), read_images(reference, pixels)
    image.attentions.clear()
    scale = reference.scale
    del reference
    mlx_mm.convert(source, source.with_name("converted"), bits=None, dtype="float32")
    model, _ = mlx_mm.load(source.with_name("converted"))
    out = model(mx.array(ids), nhwc(pixels), output_hidden_states=True)
    found = differences(out.text_model_output, out.text_embeds, text)
    images_found = differences(out.vision_model_output, out.image_embeds, image)
    found |= {f"image {name}": x for name, x in images_found.items()}
    logits = text.unit @ image.unit.T * np.exp(scale)
    found["logits"] = difference(out.logits_per_text, logits) / LOGIT
    print("\n" + "\n".join(f"{layers} layers, {name}: {x:.2g} of the limit" for name, x in found.items()))
    return found


def test_full_width(big_folder: Callable[[Config, Weights], Path]) -> None:
    """Four layers. With all 24, which take two minutes and 6 GB, vectors differ by 2e-7, logits by 1e-6."""
    assert_near(compare_full_size(big_folder, 4))
