"""Which layer gets how many bits and why not, what config.json says about it, and the arithmetic behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny import classification_shapes, golden_weights, siglip_shapes, tiny_config, write_checkpoint

from mlx_mm import convert, encode_image, encode_text, load
from mlx_mm.errors import QuantizationError, WeightsError
from mlx_mm.load import open_checkpoint
from mlx_mm.models import find_family
from mlx_mm.quantize.apply import apply_block, dequantize_linears
from mlx_mm.quantize.plan import LayerPlan, plan, to_block
from mlx_mm.quantize.recipes import RECIPES
from mlx_mm.quantize.scheme import MODES, QuantConfig, usual

FOUR, EIGHT = QuantConfig(4, 64), QuantConfig(8, 64)


def build(config: dict[str, Any]) -> Any:
    family = find_family(config["model_type"])
    return family.architecture(config.get("architectures"))(family.config.from_dict(config))


@pytest.fixture
def model() -> Any:
    """Widths 64 and 128; MLP widths 80 and 144, which no group size divides."""
    return build(tiny_config("siglip2"))


def by_path(choices: list[LayerPlan]) -> dict[str, LayerPlan]:
    assert len({choice.path for choice in choices}) == len(choices)
    return {choice.path: choice for choice in choices}


# --- the plan -----------------------------------------------------------------------------------------------------


def test_plan_names_every_layer_with_a_matrix(model: Any) -> None:
    config = tiny_config("siglip2")
    matrices = {
        name.removesuffix(".weight")
        for name, shape in siglip_shapes(config)
        if name.endswith(".weight") and len(shape) > 1
    }
    pooling = {f"vision_model.head.attention.{part}_proj" for part in "qkv"}  # one packed matrix in the file
    assert set(by_path(plan(model, FOUR))) == matrices | pooling


def test_plan_reasons(model: Any) -> None:
    choices = by_path(plan(model, FOUR))
    for path, choice in choices.items():
        if path.endswith("position_embedding"):
            assert (choice.scheme, choice.reason) == (None, "the model keeps it exact")
        elif path.endswith("mlp.fc2"):
            width = 80 if path.startswith("text") else 144
            assert (choice.scheme, choice.reason) == (None, f"width {width} is no multiple of 64")
        elif path.endswith("patch_embedding"):
            assert (choice.scheme, choice.reason) == (None, "width 48 is no multiple of 64")
        else:
            assert (choice.scheme, choice.reason) == (FOUR, ""), path
    assert choices["text_model.embeddings.token_embedding"].shape == (384, 64)


def test_plan_of_a_layer_without_a_quantised_form() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(64, 64, 2)
            self.linear = nn.Linear(64, 64)
            self.norm = nn.LayerNorm(64)  # has a weight, but no matrix

        def quant_predicate(self, _path: str, _module: nn.Module) -> bool:
            return True

    assert {c.path: (c.scheme, c.reason) for c in plan(Small(), FOUR)} == {
        "conv": (None, "no quantised form"),
        "linear": (FOUR, ""),
    }


def test_the_classifier_head_is_kept() -> None:
    config = {**tiny_config("siglip"), "architectures": ["SiglipForImageClassification"]}
    choice = by_path(plan(build(config), FOUR))["classifier"]
    assert (choice.scheme, choice.reason) == (None, "the model keeps it exact")


def test_a_group_that_does_not_divide_gives_way_to_a_smaller_one(model: Any) -> None:
    choices = plan(model, QuantConfig(4, 128))
    narrow = {c.path for c in choices if c.shape[-1] == 64}
    assert narrow
    for choice in choices:
        if choice.path in narrow and choice.shape[0] != 16:
            assert (choice.scheme, choice.reason) == (FOUR, "width 64 is no multiple of 128, but of 64")
    assert any(c.scheme == QuantConfig(4, 128) for c in choices)


def test_no_scheme_no_plan(model: Any) -> None:
    assert plan(model, None) == []
    with pytest.raises(QuantizationError, match="bits=None"):
        plan(model, None, "text-only")


# --- recipes ------------------------------------------------------------------------------------------------------


def test_text_only_keeps_the_vision_tower(model: Any) -> None:
    free = by_path(plan(model, FOUR))
    for path, choice in by_path(plan(model, FOUR, "text-only")).items():
        if path.startswith("text_model."):
            assert choice == free[path]
        else:
            assert choice.scheme is None
            assert choice.reason == ("the recipe excludes it" if free[path].scheme else free[path].reason) or (
                "multiple" in free[path].reason  # excluded before its width is looked at
            )


@pytest.mark.parametrize(
    ("family", "quantised"),
    [
        ("clip", {"text_model", "text_projection"}),
        ("clap", {"text_model", "text_projection"}),
        ("jina_clip", {"text_model"}),
        ("glm46v", {"language_model"}),
        ("glm4v_moe", {"language_model"}),
    ],
)
def test_text_only_of_every_family(family: str, quantised: set[str], tiny_checkpoint: Callable[..., Path]) -> None:
    """The model says which of its layers belong to which kind of input."""
    model = open_checkpoint(tiny_checkpoint(family)).model()
    choices = plan(model, QuantConfig(4, 32), "text-only")
    assert {choice.path.split(".")[0] for choice in choices if choice.scheme is not None} == quantised
    others = {choice.reason for choice in choices if choice.path.split(".")[0] not in quantised}
    assert "the recipe excludes it" in others
    assert set(model.towers) == set(model.modalities)


def test_text_that_others_share_is_quantised() -> None:
    class Shared(nn.Module):
        towers = {"text": ("trunk", "head."), "image": ("trunk", "stem")}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head, self.stem, self.header = (nn.Linear(64, 64) for _ in range(4))

        def quant_predicate(self, _path: str, _module: nn.Module) -> bool:
            return True

    assert {c.path for c in plan(Shared(), FOUR, "text-only") if c.scheme is None} == {"stem"}


@pytest.mark.parametrize("family", ["clip", "clap", "jina_clip", "glm46v"])
def test_embeddings_8bit_of_every_family(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    choices = plan(open_checkpoint(tiny_checkpoint(family)).model(), QuantConfig(4, 32), "embeddings-8bit")
    (table,) = [choice for choice in choices if choice.scheme == QuantConfig(8, 32)]
    assert table.path.endswith(("token_embedding", "embed_tokens"))


def test_embeddings_8bit(model: Any) -> None:
    schemes = {c.path: c.scheme for c in plan(model, FOUR, "embeddings-8bit") if c.scheme}
    assert {path for path, scheme in schemes.items() if scheme == EIGHT} == {"text_model.embeddings.token_embedding"}
    assert set(schemes.values()) == {FOUR, EIGHT}


def test_every_named_recipe_fits_every_kind_of_model(model: Any) -> None:
    """A name may hold patterns of other families, so idle ones are no error there."""
    for name in RECIPES:
        assert any(choice.scheme for choice in plan(model, FOUR, name))


def test_recipe_by_path(model: Any) -> None:
    recipe = {
        "*.layers.0.*": {"bits": 8},
        "vision_model.head.*": False,
        "*.out_proj": {"bits": 8, "group_size": 32},
        "text_model.head": True,
    }
    choices = by_path(plan(model, FOUR, recipe))
    first, last = "vision_model.encoder.layers.0.self_attn", "vision_model.encoder.layers.1.self_attn"
    assert choices[f"{first}.q_proj"].scheme == EIGHT
    assert choices[f"{first}.out_proj"].scheme == EIGHT  # the first pattern that matches decides
    assert choices[f"{last}.out_proj"].scheme == QuantConfig(8, 32)
    assert choices[f"{last}.q_proj"].scheme == FOUR
    assert choices["vision_model.head.attention.out_proj"].reason == "the recipe excludes it"
    assert choices["text_model.head"].scheme == FOUR


def test_a_width_of_96_has_groups_of_32() -> None:
    model = build(
        tiny_config("siglip2") | {"text_config": tiny_config("siglip2")["text_config"] | {"intermediate_size": 96}}
    )
    path = "text_model.encoder.layers.0.mlp.fc2"
    choice = by_path(plan(model, FOUR))[path]
    assert (choice.scheme, choice.reason) == (QuantConfig(4, 32), "width 96 is no multiple of 64, but of 32")
    assert by_path(plan(model, QuantConfig(8, 128)))[path].scheme == QuantConfig(8, 32)
    asked = by_path(plan(model, FOUR, {"*.fc2": {"group_size": 32}, "*": True}))[path]
    assert (asked.scheme, asked.reason) == (QuantConfig(4, 32), "")


def test_a_recipe_cannot_overrule_the_model(model: Any) -> None:
    choices = by_path(plan(model, FOUR, {"*position_embedding": {"bits": 8}}))
    assert choices["text_model.embeddings.position_embedding"].reason == "the model keeps it exact"


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("fast", "no recipe 'fast'; expected one of all, all-4, all-8, text-only"),
        ({"audio_model.*": False}, r"pattern 'audio_model\.\*' matches no layer"),
        ({"xyz": False}, r"pattern 'xyz' matches no layer.*Layers are named like \w+_model\."),
        ({"*": False, "*.fc1": {"bits": 8}}, r"pattern '\*\.fc1' matches no layer, or only layers"),
        ({"*": {"bit": 8}}, "the key 'bit'; expected False, bits, or a dict of bits, group_size and mode"),
        ({"*": "8"}, "has '8'; expected False"),
        ({"*": None}, "has None; expected False"),
        ({"*": 7}, "bits is 7; affine takes"),
        ({"*": 4.0}, r"has 4\.0; expected False"),
        ({"*": {"bits": 7}}, "bits is 7; affine takes 2, 3, 4, 5, 6, 8"),
        ({"*": {"bits": "4"}}, "bits is '4'"),
        ({"*": {"bits": [4]}}, r"bits is \[4\]"),
        ({"*": {"group_size": 48}}, "group_size is 48; affine takes 32, 64, 128"),
        ({"*": {"mode": "mxfp4"}}, "group_size is 64; mxfp4 takes 32"),
        ({"*": {"mode": "nf4"}}, "mode is 'nf4'; expected one of affine, mxfp4, mxfp8, nvfp4"),
        ({"*.fc3": 8}, r"'\*\.fc3' matches no layer.*Near misses: \*\.fc[12], \*\.fc[12]"),
        ({"vision_model.encoder.layer.*": 8}, r"Near misses: vision_model\.encoder\.layers\.\*"),
        ({"@txt": 8}, "mark '@txt'; expected one of @tables, @text, @image"),
        ({"@audio": 8}, "pattern '@audio' matches no layer"),
        ({}, "empty and names no layer"),
        ({"": {"bits": 8}}, "pattern '' matches no layer"),
        ([1, 2], "recipe"),
        (7, "recipe"),
    ],
)
def test_recipes_that_cannot_be_followed(model: Any, recipe: Any, expected: str) -> None:
    with pytest.raises(QuantizationError, match=expected):
        plan(model, FOUR, recipe)


# --- schemes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((7, 64), "bits is 7; affine takes 2, 3, 4, 5, 6, 8"),
        ((8, 32, "mxfp4"), "bits is 8; mxfp4 takes 4"),
        ((4, 32, "nvfp4"), "group_size is 32; nvfp4 takes 16"),
        ((16, 64), "bits is 16"),
        ((True, 64), "bits is True"),
        ((None, 64), "bits is None"),
        ((4.0, 64), r"bits is 4\.0"),
        ((4, 64.0), r"group_size is 64\.0"),
        ((4, 16), "group_size is 16; affine takes 32, 64, 128"),
        ((4, 0), "group_size is 0"),
        ((4, 64, "nf4"), "mode is 'nf4'; expected one of affine"),
        ((4, 64, None), "mode is None"),
    ],
)
def test_schemes_that_do_not_exist(arguments: tuple[Any, ...], expected: str) -> None:
    with pytest.raises(QuantizationError, match=expected):
        QuantConfig(*arguments)


def schemes() -> list[QuantConfig]:
    return [QuantConfig(b, g, mode) for mode, (bits, groups) in MODES.items() for b in bits for g in groups]


@pytest.mark.parametrize("scheme", schemes(), ids=str)
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_sizes_are_those_of_mlx(scheme: QuantConfig, dtype: mx.Dtype) -> None:
    weight = mx.random.normal((24, 256), key=mx.random.key(0)).astype(dtype)
    parts = dict(zip(scheme.parts, scheme.quantize(weight), strict=True))
    assert scheme.sizes((24, 256), dtype) == {name: (part.dtype, part.shape) for name, part in parts.items()}


def test_packed_size_in_numbers() -> None:
    """A (1024, 4352) matrix in float16: 4 bits and two 16-bit numbers for 64 weights make 4.5 bits each."""
    sizes = FOUR.sizes((1024, 4352), mx.float16)
    assert sizes == {
        "weight": (mx.uint32, (1024, 544)),
        "scales": (mx.float16, (1024, 68)),
        "biases": (mx.float16, (1024, 68)),
    }
    num_bytes = sum(dtype.size * shape[0] * shape[1] for dtype, shape in sizes.values())
    assert num_bytes * 8 / (1024 * 4352) == 4.5


@pytest.mark.parametrize("scheme", [scheme for scheme in schemes() if scheme.mode == "affine"], ids=str)
def test_error_is_half_a_step_at_most(scheme: QuantConfig) -> None:
    weight = mx.random.normal((16, 256), key=mx.random.key(1))
    packed, scales, biases = scheme.quantize(weight)
    back = mx.dequantize(packed, scales, biases, scheme.group_size, scheme.bits, scheme.mode)
    groups = np.array(weight).reshape(16, -1, scheme.group_size)
    step = (groups.max(-1) - groups.min(-1)) / (2**scheme.bits - 1)
    error = np.abs(np.array(back).reshape(groups.shape) - groups).max(-1)
    # MLX moves the grid so that 0 and the larger end are exact, which can cost one more half step.
    assert (error <= 1.01 * step).all()
    assert error.max() > step.min() / 4  # something was rounded


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_floats_are_the_nearest_of_their_kind(mode: str) -> None:
    """Each weight over its group's scale becomes the nearest number of OCP's E2M1 or E4M3 floats."""
    bits, group_size = usual(mode)
    grid = small_floats(np.arange(256), 4, 3) if bits == 8 else small_floats(np.arange(16), 2, 1)
    grid = np.unique(grid[np.abs(grid) <= 448])  # 480 would be, and is no number
    weight = mx.random.normal((16, 256), key=mx.random.key(1))
    packed, scales = QuantConfig(bits, group_size, mode).quantize(weight)
    back = np.array(mx.dequantize(packed, scales, None, group_size, bits, mode, dtype=mx.float32), np.float64)
    codes = np.array(scales).astype(np.int64)
    scale = small_floats(codes, 4, 3) if mode == "nvfp4" else 2.0 ** (codes - 127)
    scale = np.repeat(scale, group_size, axis=1)
    assert np.isin(np.round(back / scale, 6), np.round(grid, 6)).all()
    wanted = np.array(weight) / scale
    inside = np.abs(wanted) <= grid.max()
    nearest = np.abs(wanted[..., None] - grid).min(-1)
    np.testing.assert_allclose(np.abs(back / scale - wanted)[inside], nearest[inside], atol=1e-5)
    assert inside.mean() > 0.95
    assert np.abs(back - np.array(weight)).max() > 1e-3


# --- config.json --------------------------------------------------------------------------------------------------


def test_config_block(model: Any) -> None:
    recipe = {"*.layers.1.*": {"bits": 8}, "vision_model.head.*": False}
    choices = plan(model, FOUR, recipe)
    block = to_block(choices, FOUR)
    assert {key: block.pop(key) for key in ("bits", "group_size", "mode")} == {
        "bits": 4,
        "group_size": 64,
        "mode": "affine",
    }
    assert block["vision_model.encoder.layers.1.mlp.fc1"] == {"bits": 8, "group_size": 64, "mode": "affine"}
    assert block["vision_model.head.attention.q_proj"] is False
    assert block["text_model.embeddings.position_embedding"] is False
    assert set(block) == {choice.path for choice in choices if choice.scheme != FOUR}


@pytest.mark.parametrize(
    "recipe", [None, "text-only", "embeddings-8bit", {"*q_proj": {"bits": 8}, "*k_proj": {"group_size": 32}}]
)
@pytest.mark.parametrize("default", [FOUR, EIGHT, QuantConfig(4, 32)], ids=str)
def test_config_round_trip(model: Any, default: QuantConfig, recipe: Any) -> None:
    choices = plan(model, default, recipe)
    block = json.loads(json.dumps(to_block(choices, default)))
    names = {f"{choice.path}.scales": None for choice in choices if choice.scheme}
    apply_block(model, block, names)
    modules = dict(model.named_modules())
    for choice in choices:
        module = modules[choice.path]
        quantised = isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding)
        assert quantised == (choice.scheme is not None), choice.path
        if choice.scheme is not None:
            assert QuantConfig(module.bits, module.group_size, module.mode) == choice.scheme, choice.path
    assert len({c.scheme for c in choices if c.scheme}) >= (
        2 if isinstance(recipe, dict) and default != QuantConfig(4, 32) else 1
    )


def test_a_block_of_another_tool(model: Any) -> None:
    """mlx-lm writes no mode for affine, and nothing about layers that it left alone."""
    names = {"text_model.head.scales": None, "text_model.embeddings.token_embedding.scales": None}
    apply_block(model, {"group_size": 32, "bits": 8, "text_model.head": {"bits": 4}}, names)
    head, embedding = model.text_model.head, model.text_model.embeddings.token_embedding
    assert (head.bits, head.group_size, head.mode) == (4, 32, "affine")
    assert (embedding.bits, embedding.group_size) == (8, 32)
    assert isinstance(model.vision_model.embeddings.patch_embedding, nn.Linear)


def read_schemes() -> list[tuple[int, int, str]]:
    return [(b, g, mode) for mode, (bits, groups) in MODES.items() for b in bits for g in groups]


@pytest.mark.parametrize(("bits", "group_size", "mode"), read_schemes())
def test_schemes_of_other_tools(bits: int, group_size: int, mode: str) -> None:
    """Whatever MLX computes with: a layer is read with it, and its weights become floats on a CPU."""

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.other = nn.Linear(256, 40), nn.Linear(256, 40)

    theirs, ours = Holder(), Holder()
    nn.quantize(theirs, group_size, bits, mode=mode, class_predicate=lambda path, _: path == "layer")
    tensors = dict(tree_flatten(theirs.parameters()))
    apply_block(ours, {"bits": bits, "group_size": group_size, "mode": mode, "other": False}, tensors)
    ours.load_weights(list(tensors.items()), strict=True)
    assert (ours.layer.bits, ours.layer.group_size, ours.layer.mode) == (bits, group_size, mode)
    x = mx.random.normal((3, 256), key=mx.random.key(3))
    expected = theirs.layer(x)
    assert (ours.layer(x) == expected).all()
    dequantize_linears(ours, mx.float32)
    assert isinstance(ours.layer, nn.Linear)
    assert ours.layer.weight.dtype == mx.float32
    np.testing.assert_allclose(ours.layer(x), expected, atol=1e-5)


def test_a_layers_own_block_without_a_mode(model: Any) -> None:
    """Other tools write none for affine, beside a default that is not affine."""
    names = {"text_model.head.scales": None, "text_model.embeddings.token_embedding.scales": None}
    block = {"group_size": 32, "bits": 4, "mode": "mxfp4", "text_model.head": {"group_size": 64, "bits": 8}}
    apply_block(model, block, names)
    head, embedding = model.text_model.head, model.text_model.embeddings.token_embedding
    assert (head.bits, head.group_size, head.mode) == (8, 64, "affine")
    assert (embedding.bits, embedding.group_size, embedding.mode) == (4, 32, "mxfp4")


@pytest.mark.parametrize("names", [{}, {"text_model.head.weight": None}])
def test_a_block_without_scales(model: Any, names: dict[str, None]) -> None:
    with pytest.raises(WeightsError, match=r"hold no \.scales tensors"):
        apply_block(model, {"bits": 4, "group_size": 64}, names)


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"bits": 4},
        {"group_size": 64},
        {"bits": 7, "group_size": 64},
        {"bits": True, "group_size": 64},
        {"bits": 4, "group_size": 48},
        {"bits": 4, "group_size": 64, "mode": "nvfp4"},
        {"bits": 4, "group_size": 64, "mode": "nf4"},
        {"bits": 4, "group_size": 64, "mode": ["affine"]},
        {"bits": 4, "group_size": 64, "text_model.head": {"bits": 1}},
    ],
)
def test_a_block_we_cannot_read(model: Any, block: dict[str, Any]) -> None:
    with pytest.raises(QuantizationError):
        apply_block(model, block, {"text_model.head.scales": None})


# --- arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scheme", schemes(), ids=str)
def test_dequantised_linear_equals_the_quantised_product(scheme: QuantConfig, bias: bool) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(256, 40, bias=bias)]
            self.embedding = nn.Embedding(10, 256)

    holder = Holder()
    holder.set_dtype(mx.float16)
    nn.quantize(holder, group_size=scheme.group_size, bits=scheme.bits, mode=scheme.mode)
    layer = holder.layers[0]
    assert isinstance(layer, nn.QuantizedLinear)
    if bias:
        layer.bias = mx.random.normal((40,), key=mx.random.key(2)).astype(mx.float16)
    x = mx.random.normal((5, 256), key=mx.random.key(3))
    exact = float64_product(layer, x)
    dequantize_linears(holder, mx.float32)
    assert type(holder.layers[0]) is nn.Linear
    assert holder.layers[0].weight.dtype == mx.float32
    assert isinstance(holder.embedding, nn.QuantizedEmbedding)  # looks up few rows at a time
    got = np.array(holder.layers[0](x), dtype=np.float64)
    assert got.shape == (5, 40)
    assert np.abs(got - exact).max() <= 1e-5
    # the quantised layer itself, whose product rounds to float16 scales only
    assert np.abs(np.array(layer(x), dtype=np.float64) - exact).max() <= 1e-3


def float64_product(layer: nn.QuantizedLinear, x: mx.array) -> np.ndarray:
    """The formula of each mode, unpacked by hand: affine w = q · scale + bias, others float · scale."""
    rows = len(layer.weight)
    bits = np.unpackbits(np.array(layer.weight).view(np.uint8), axis=-1, bitorder="little")
    values = bits.reshape(rows, -1, layer.bits) @ (1 << np.arange(layer.bits))
    if layer.mode == "affine":
        scales, biases = (np.array(part.astype(mx.float32), dtype=np.float64) for part in (layer.scales, layer.biases))
    else:
        size = (4, 3) if layer.bits == 8 else (2, 1)
        codes = np.array(layer.scales).astype(np.int64)
        values, biases = small_floats(values, *size), np.zeros(codes.shape)
        scales = small_floats(codes, 4, 3) if layer.mode == "nvfp4" else 2.0 ** (codes - 127)
    grouped = values.reshape(rows, -1, layer.group_size).astype(np.float64)
    weight = (grouped * scales[..., None] + biases[..., None]).reshape(rows, -1)
    result = np.array(x, dtype=np.float64) @ weight.T
    return result + np.array(layer.bias.astype(mx.float32)) if "bias" in layer else result


def small_floats(codes: np.ndarray, exponent_bits: int, mantissa_bits: int) -> np.ndarray:
    """What a sign, an exponent and a mantissa say together."""
    steps, bias = 2**mantissa_bits, 2 ** (exponent_bits - 1) - 1
    mantissa, exponent = codes % steps / steps, codes // steps % 2**exponent_bits
    sign = 1 - 2 * (codes // steps // 2**exponent_bits)
    return sign * np.where(exponent, 1 + mantissa, mantissa) * 2.0 ** (np.maximum(exponent, 1) - bias)


# --- through convert and load -------------------------------------------------------------------------------------


def test_mixed_bits_survive_the_round_trip(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    """Every layer of the loaded model is the one the plan chose, so eight bits are closer than four."""
    source = tiny_checkpoint("siglip2")
    image = (np.arange(30 * 40 * 3, dtype=np.int64).reshape(30, 40, 3) * 7919 % 251).astype(np.uint8)
    model, processor = load(source)
    exact = encode_text(model, processor, ["a cat"])[0], encode_image(model, processor, image)
    errors = {}
    for name, recipe, bits in (
        ("four", None, 4),
        ("text-only", "text-only", 4),
        ("mixed", {"vision_model.*": {"bits": 8}}, 4),
        ("eight", None, 8),
    ):
        report = convert(source, tmp_path / name, bits=bits, recipe=recipe, dtype="float32")
        block = json.loads((tmp_path / name / "config.json").read_text())["quantization"]
        assert block == to_block(report.choices, QuantConfig(bits, 64))
        model, processor = load(tmp_path / name)
        got = encode_text(model, processor, ["a cat"])[0], encode_image(model, processor, image)
        errors[name] = [float(np.abs(g - e).max()) for g, e in zip(got, exact, strict=True)]
    text, image_errors = ({name: pair[i] for name, pair in errors.items()} for i in range(2))
    assert text["four"] == pytest.approx(text["text-only"], abs=1e-6)
    assert text["four"] == pytest.approx(text["mixed"], abs=1e-6)
    assert text["eight"] < text["four"] / 4
    assert image_errors["text-only"] <= 1e-6
    assert image_errors["mixed"] == pytest.approx(image_errors["eight"], abs=1e-6)
    assert 1e-5 < image_errors["eight"] < image_errors["four"] / 4


def test_a_recipe_that_quantises_nothing(tmp_path: Path) -> None:
    """Its result would claim to be quantised and could not be loaded, so it is refused or loads."""
    config = tiny_config("siglip2")
    vision = {**config["vision_config"], "architectures": ["Siglip2VisionModel"]}
    shapes = [pair for pair in siglip_shapes(config) if pair[0].startswith("vision_model.")]
    source = write_checkpoint(tmp_path / "source", vision, golden_weights(shapes))
    try:
        convert(source, tmp_path / "out", recipe="text-only")
    except QuantizationError:
        assert not (tmp_path / "out").exists()
    else:
        load(tmp_path / "out")
        assert "without quantisation" in (tmp_path / "out" / "README.md").read_text()


def test_a_classifier_is_quantised_but_for_its_head(tmp_path: Path) -> None:
    config = {**tiny_config("siglip"), "architectures": ["SiglipForImageClassification"]}
    source = write_checkpoint(tmp_path / "source", config, golden_weights(classification_shapes(config, 2)))
    convert(source, tmp_path / "out")
    arrays = mx.load(str(tmp_path / "out" / "model.safetensors"))
    assert "classifier.scales" not in arrays
    assert arrays["vision_model.encoder.layers.0.mlp.fc2.weight"].dtype == mx.uint32
    load(tmp_path / "out")
