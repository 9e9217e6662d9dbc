"""GLM's vision tower against golden numbers and a second reading of it, and what must not change them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from comparing import LONG, close
from glm_tiny import DENSE, MODELS, REFERENCE, VISUAL, glm_cases, glm_config, glm_pixels, glm_weights
from mlx.utils import tree_flatten
from tiny import golden

from mlx_mm.backend import attention, blas
from mlx_mm.errors import ConfigError, InputError
from mlx_mm.layers.interpolate import bicubic_matrix
from mlx_mm.layers.rope import grid_angles, inverse_frequencies
from mlx_mm.models.glm4v import vision as room
from mlx_mm.models.glm4v.config import ModelConfig, VisionConfig
from mlx_mm.models.glm4v.vision import VisionTower

EXAMPLES = golden("glm46v_examples")
# Measured: 1.2e-6 from the golden rows, which have six digits, 2.3e-6 from the second reading in float64. The nearest
# wrong form, the tanh GELU, is off by 2.5e-4, the others by 4e-2 and more; features are of the order of 0.2.
TOLERANCE = 5e-6
FIVE = [(4, 6), (8, 4), (2, 2), (6, 6), (2, 10)]
CASES = [(model, case) for model in MODELS for case, spec in glm_cases(model).items() if "vision" in spec]

Weights = dict[str, np.ndarray]
Sizes = list[tuple[int, int]]


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> None:
    """The matrix library that `load` chooses, whichever test runs first."""
    blas.use_fast_blas()


def visual(weights: Weights) -> Weights:
    return {name.removeprefix(VISUAL): value for name, value in weights.items() if name.startswith(VISUAL)}


def tower(config: dict[str, Any] | None = None, weights: Weights | None = None) -> VisionTower:
    config = glm_config() if config is None else config
    model = VisionTower(ModelConfig.from_dict(config).vision_config)
    arrays = visual(glm_weights(config) if weights is None else weights)
    last = {name: np.moveaxis(value, 1, -1) if value.ndim > 2 else value for name, value in arrays.items()}
    model.load_weights([(name, mx.array(value)) for name, value in last.items()], strict=True)
    model.eval()
    return model


def thw(sizes: Sizes) -> list[list[int]]:
    return [[1, *size] for size in sizes]


def pixels_of(sizes: Sizes) -> mx.array:
    return mx.array(glm_pixels(sum(rows * cols for rows, cols in sizes)))


# --- golden numbers ---------------------------------------------------------------------------------------------


def grids_of(spec: dict[str, Any]) -> list[list[int]]:
    grids: list[list[int]] = spec["image_grid_thw"] or spec["video_grid_thw"]
    return grids


def misses(features: Any, expected: dict[str, Any]) -> float:
    """The largest difference from the golden rows, and from the sums where those are off by more than their digits."""
    got = np.array(features, dtype=np.float64)
    assert list(got.shape) == expected["shape"]
    ends = max(np.abs(got[0, :6] - expected["first_row"]).max(), np.abs(got[-1, :6] - expected["last_row"]).max())
    sums = max(abs(got.sum() - expected["sum"]), abs(np.sqrt((got**2).sum()) - expected["l2"]))
    return float(max(ends, sums if sums > 2e-4 else 0))


@pytest.mark.parametrize(("model", "case"), CASES)
def test_golden_features(model: str, case: str) -> None:
    spec = glm_cases(model)[case]
    grids = grids_of(spec)
    pixels = mx.array(glm_pixels(sum(math.prod(grid) for grid in grids)))
    assert misses(tower(glm_config(model))(pixels, grids).pooler_output, spec["vision"]) <= TOLERANCE
    assert misses(tower(glm_config(model))(pixels, mx.array(grids)).pooler_output, spec["vision"]) <= TOLERANCE


@pytest.mark.parametrize("model", MODELS)
def test_recipe(model: str) -> None:
    spec, weights = REFERENCE["models"][model], glm_weights(glm_config(model))
    assert len(weights) == spec["n_tensors"]
    assert all(close(weights[name].ravel()[:3], value, 6e-7) for name, value in spec["weight_check"].items())


def table_of(side: int) -> mx.array:
    """The golden table: row k is (37k mod 101) / 101 and sin(k)."""
    k = np.arange(side * side)
    return mx.array(np.stack([37 * k % 101 / 101, np.sin(k)], axis=1).astype(np.float32))


def resized(spec: dict[str, Any]) -> np.ndarray:
    size = (spec["grid"][1], spec["grid"][2])
    table = room.PositionTable(spec["side"], 2)
    table.weight = table_of(spec["side"])
    return np.array(room.in_blocks(table(size), size, 2))


@pytest.mark.parametrize("spec", EXAMPLES["pos_embed_interpolation"])
def test_golden_positions(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def off() -> float:
        got = resized(spec).astype(np.float64)
        if "values" in spec:
            return float(np.abs(got - spec["values"]).max())
        sums = np.abs(got.sum(0) - spec["sum"]).max() / 1000
        return float(max(np.abs(got[:8] - spec["first8"]).max(), np.abs(got[-2:] - spec["last2"]).max(), sums))

    assert off() <= TOLERANCE
    if spec["grid"][1:] == [spec["side"]] * 2:
        return  # the table itself, however it is resized
    for matrix in (zero_padded, half_kernel, bilinear):
        monkeypatch.setattr(room, "bicubic_matrix", matrix)
        assert off() > 1e-3, matrix.__name__


def test_golden_coordinates() -> None:
    """Of each patch in the tower's order: its row and its column, as positions and as angles."""
    expected, size = np.array(EXAMPLES["vision_coords_grid_1_4_6"]), (4, 6)
    cells = mx.stack(mx.meshgrid(mx.arange(4), mx.arange(6), indexing="ij"), axis=-1).reshape(24, 2)
    assert (np.array(room.in_blocks(cells, size, 2)) == expected).all()
    frequencies = np.array(inverse_frequencies(8, 10000.0))
    turned = (expected[:, :, None] * frequencies).reshape(24, 8)
    assert close(room.in_blocks(grid_angles(4, 6, 16), size, 2), turned, 1e-6)


# --- a second reading, in float64, with the known wrong forms ---------------------------------------------------


def taps(n_in: int, n_out: int, kernel: Any, border: bool) -> mx.array:
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        place = (i + 0.5) * n_in / n_out - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            if border or 0 <= tap < n_in:
                matrix[i, min(max(tap, 0), n_in - 1)] += kernel(abs(place - tap))
    return mx.array(matrix.astype(np.float32))


def cubic(a: float) -> Any:
    return lambda z: ((a + 2) * z - (a + 3)) * z * z + 1 if z <= 1 else a * (z - 1) * (z - 2) ** 2 if z < 2 else 0.0


def zero_padded(n_in: int, n_out: int) -> mx.array:
    return taps(n_in, n_out, cubic(-0.75), border=False)


def half_kernel(n_in: int, n_out: int) -> mx.array:
    return taps(n_in, n_out, cubic(-0.5), border=True)


def bilinear(n_in: int, n_out: int) -> mx.array:
    return taps(n_in, n_out, lambda z: max(0.0, 1 - z), border=False)


def reading(weights: Weights, vision: VisionConfig, pixels: Any, sizes: Sizes, wrong: str = "") -> np.ndarray:
    """The tower's features, written from the facts and not from our code. `wrong` names one mistake."""
    w = {name: value.astype(np.float64) for name, value in visual(weights).items()}
    eps = 1e-6 if wrong == "eps" else vision.rms_norm_eps

    def rms(x: np.ndarray, name: str) -> np.ndarray:
        return w[f"{name}.weight"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)

    def silu(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    def gated(x: np.ndarray, name: str, width: int | None = None) -> np.ndarray:
        gate, up = (x @ w[f"{name}.{part}_proj.weight"].T for part in ("gate", "up"))
        return (silu(gate) * up)[:, :width] @ w[f"{name}.down_proj.weight"].T[:width]

    grids = [np.array([(r, c) for r in range(rows) for c in range(cols)]) for rows, cols in sizes]
    if wrong != "raster order":
        grids = [np.array(sorted(cells.tolist(), key=lambda p: (p[0] // 2, p[1] // 2, *p))) for cells in grids]
    kernel = w["patch_embed.proj.weight"].swapaxes(1, 2) if wrong == "time first" else w["patch_embed.proj.weight"]
    x = np.array(pixels, np.float64) @ kernel.reshape(len(kernel), -1).T + w["patch_embed.proj.bias"]
    if wrong != "no post_conv_layernorm":
        x = rms(x, "post_conv_layernorm")
    side = vision.table_side
    table = w["embeddings.position_embedding.weight"].reshape(side, side, -1)
    matrix = {"zero padded": zero_padded, "a = -0.5": half_kernel, "bilinear": bilinear}.get(wrong, bicubic_matrix)
    places = []
    for (rows, cols), cells in zip(sizes, grids, strict=True):
        by_row, by_col = (np.array(matrix(side, n), np.float64) for n in (rows, cols))
        places.append(np.einsum("ri,cj,ijd->rcd", by_row, by_col, table)[cells[:, 0], cells[:, 1]])
    x = x + np.concatenate(places)

    cells = np.concatenate(grids)[:, ::-1] if wrong == "row and column swapped" else np.concatenate(grids)
    heads, width = vision.num_heads, vision.hidden_size // vision.num_heads
    inverse = 10000.0 ** (-np.arange(0, width // 2, 2) / (width // 2))
    angle = np.concatenate([cells[:, :1] * inverse, cells[:, 1:] * inverse], axis=1)[:, None]

    def turn(x: np.ndarray) -> np.ndarray:
        if wrong == "interleaved rope":
            a, b = x[..., 0::2], x[..., 1::2]
            return np.stack([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1).reshape(
                x.shape
            )
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    bounds = [0, *np.cumsum([rows * cols for rows, cols in sizes]).tolist()]
    if wrong == "across pictures":
        bounds = [0, bounds[-1]]
    if wrong == "two boundaries":
        bounds = [*bounds[:3], bounds[-1]]
    for i in range(vision.depth):
        block = f"blocks.{i}"
        qkv = rms(x, f"{block}.norm1") @ w[f"{block}.attn.qkv.weight"].T
        q, k, v = qkv.reshape(len(x), 3, heads, width).swapaxes(0, 1)
        if wrong == "heads before q, k, v":
            q, k, v = qkv.reshape(len(x), heads, 3, width).transpose(2, 0, 1, 3)
        q, k = turn(q), turn(k)
        out = []
        for a, b in itertools.pairwise(bounds):
            scores = np.einsum("qhd,khd->hqk", q[a:b], k[a:b]) / math.sqrt(width)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out.append(np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v[a:b]).reshape(b - a, -1))
        x = x + np.concatenate(out) @ w[f"{block}.attn.proj.weight"].T
        narrow = vision.intermediate_size if wrong == "MLP of intermediate_size" else None
        x = x + gated(rms(x, f"{block}.norm2"), f"{block}.mlp", narrow)
    x = x if wrong == "no post_layernorm" else rms(x, "post_layernorm")
    order = (0, 3, 2, 1) if wrong == "block transposed" else (0, 2, 3, 1)
    x = x.reshape(len(x) // 4, -1) @ w["downsample.weight"].transpose(order).reshape(vision.out_hidden_size, -1).T
    x = (x + w["downsample.bias"]) @ w["merger.proj.weight"].T
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * w["merger.post_projection_norm.weight"]
    x = x if wrong == "no merger bias" else x + w["merger.post_projection_norm.bias"]
    if wrong == "tanh GELU":
        x = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    else:
        x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return gated(x, "merger")


WRONG = (
    "bilinear",
    "zero padded",
    "a = -0.5",
    "raster order",
    "time first",
    "no post_conv_layernorm",
    "row and column swapped",
    "interleaved rope",
    "across pictures",
    "two boundaries",
    "heads before q, k, v",
    "MLP of intermediate_size",
    "no post_layernorm",
    "block transposed",
    "no merger bias",
    "tanh GELU",
)


def test_second_reading_and_wrong_ones() -> None:
    config, pixels = glm_config(), pixels_of(FIVE)
    weights, section = glm_weights(config), ModelConfig.from_dict(config).vision_config
    got = tower(config)(pixels, thw(FIVE)).pooler_output
    assert close(got, reading(weights, section, pixels, FIVE), TOLERANCE)
    for wrong in WRONG:
        assert not close(got, reading(weights, section, pixels, FIVE, wrong), 30 * TOLERANCE), wrong


def test_eps() -> None:
    """Where numbers are small: 1e-6, which a peer has in its blocks, is then something else."""
    config = glm_config()
    weights, section = glm_weights(config), ModelConfig.from_dict(config).vision_config
    for name in ("post_conv_layernorm.weight", "embeddings.position_embedding.weight"):
        weights[VISUAL + name] *= 1e-3
    pixels = pixels_of(FIVE)
    got = tower(config, weights)(pixels, thw(FIVE)).pooler_output
    assert close(got, reading(weights, section, pixels, FIVE), 2 * TOLERANCE)
    assert not close(got, reading(weights, section, pixels, FIVE, "eps"), 1e-2)


def test_four_frames_are_not_one_picture() -> None:
    config, pixels = glm_config(), pixels_of([(4, 6)] * 4)
    weights, section = glm_weights(config), ModelConfig.from_dict(config).vision_config
    got = tower(config)(pixels, [[4, 4, 6]]).pooler_output
    assert close(got, reading(weights, section, pixels, [(4, 6)] * 4), TOLERANCE)
    for wrong in ("across pictures", "two boundaries"):
        assert not close(got, reading(weights, section, pixels, [(4, 6)] * 4, wrong), 1e-2)


# --- pictures do not see each other -----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [FIVE[:1], FIVE[:2], FIVE[:3], FIVE, [(4, 6), (4, 6), (6, 4), (4, 6), (4, 6)]])
def test_each_picture_as_if_alone(sizes: Sizes) -> None:
    model, pixels = tower(), pixels_of(sizes)
    both = model(pixels, thw(sizes))
    start = 0
    for rows, cols in sizes:
        end = start + rows * cols
        alone = model(pixels[start:end], [[1, rows, cols]])
        for name in ("pooler_output", "last_hidden_state"):
            assert close(getattr(both, name)[start // 4 : end // 4], getattr(alone, name), TOLERANCE)
        start = end
    assert start == len(pixels)


@pytest.mark.parametrize("rows", [1, 30, 60, room.PATCHES_PER_BATCH])
def test_video_is_its_frames(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are computed at a time."""
    frames = [(4, 6)] * 5 + [(2, 4)] * 2
    model, pixels = tower(), pixels_of(frames)
    expected = model(pixels, thw(frames)).pooler_output
    monkeypatch.setattr(room, "PATCHES_PER_BATCH", rows)
    assert close(model(pixels, [[5, 4, 6], [2, 2, 4]]).pooler_output, expected, TOLERANCE)
    assert close(model(pixels, [[2, 4, 6], [3, 4, 6], [2, 2, 4]]).pooler_output, expected, TOLERANCE)


def test_batches() -> None:
    assert list(room.batches([(64, 64)] * 5)) == [(2, (64, 64)), (2, (64, 64)), (1, (64, 64))]
    assert list(room.batches([(128, 192)] * 2)) == [(1, (128, 192))] * 2
    assert list(room.batches([(2, 4), (4, 2), (4, 2)])) == [(1, (2, 4)), (2, (4, 2))]


def test_table_is_resized_once_for_a_size() -> None:
    model, grids = tower(), [[1, 4, 6], [1, 8, 4], [1, 4, 6]]
    table = model.embeddings.position_embedding
    first = table((4, 6))
    assert table((4, 6)) is first
    assert table((8, 4)) is not first
    pixels = mx.array(glm_pixels(80))
    before = model(pixels, grids).pooler_output
    table.weight = table.weight * 2  # other weights, as after another load
    assert close(table((4, 6)), first * 2, 1e-5)
    assert not close(model(pixels, grids).pooler_output, before, 1e-2)
    for rows in range(2, 50, 2):  # it does not grow without end
        table((rows, 2))
    assert close(table((4, 6)), first * 2, 1e-5)


def test_attention_in_blocks_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU for a large picture."""
    model, pixels = tower(), pixels_of(FIVE)
    expected = model(pixels, thw(FIVE)).pooler_output
    monkeypatch.setattr(attention, "MAX_SCORES_PER_BLOCK", 300)
    assert close(model(pixels, thw(FIVE)).pooler_output, expected, TOLERANCE)


@LONG[0]
@LONG[1]
@pytest.mark.usefixtures("without_kernels")
def test_memory_is_that_of_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured: 33 MB for one, two, four and eight; begun together, four had 82 MB.

    By hand, four pictures of 24,576 patches at a width of 64: 367 MB, and one 349.
    """
    # What attention holds would hide the rest at this size
    monkeypatch.setattr(attention, "MAX_SCORES_PER_BLOCK", 1 << 18)
    config = VisionConfig(
        depth=4, hidden_size=64, num_heads=2, out_hidden_size=1024, intermediate_size=96, image_size=84
    )
    model = VisionTower(config)
    sizes = [(32, 32), (16, 64), (64, 16), (8, 128)]
    pixels = pixels_of(sizes)
    mx.eval(model.parameters(), pixels)

    def peak(count: int) -> int:
        """Beyond what is there before and what comes out."""
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        features = model(pixels[: count * 1024], thw(sizes[:count])).pooler_output
        mx.eval(features)
        return mx.get_peak_memory() - before - features.nbytes

    peak(1)
    assert peak(4) < 1.5 * peak(1)


# --- what else comes out, and what goes in ----------------------------------------------------------------------


def test_hidden_states_and_attentions() -> None:
    model, sizes = tower(), FIVE[:3]
    pixels = pixels_of(sizes)
    out = model(pixels, thw(sizes), output_hidden_states=True, output_attentions=True)
    plain = model(pixels, thw(sizes))
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert close(out.pooler_output, plain.pooler_output, 0)
    assert out.hidden_states is not None
    assert out.attentions is not None
    assert [states.shape for states in out.hidden_states] == [(60, 64)] * 3
    last = model.post_layernorm(out.hidden_states[-1]).reshape(15, 256)
    assert close(last @ model.downsample.weight.flatten(1).T + model.downsample.bias, out.last_hidden_state, TOLERANCE)
    assert close(model.merger(out.last_hidden_state), out.pooler_output, TOLERANCE)
    assert [weights.shape for weights in out.attentions] == [(3, 4, 32, 32)] * 2
    for weights in out.attentions:
        for row, (rows, cols) in zip(weights, sizes, strict=True):
            real = row[:, : rows * cols, : rows * cols]
            assert close(real.sum(-1), 1, 1e-6)
            assert close(row.sum(), real.sum(), 1e-4)
    alone = model(pixels[24:56], [[1, 8, 4]], output_hidden_states=True, output_attentions=True)
    assert close(out.attentions[1][1], alone.attentions[1][0], TOLERANCE)
    assert close(out.hidden_states[2][24:56], alone.hidden_states[2], TOLERANCE)


def test_names_and_layouts() -> None:
    """Those of MLX-community's files of GLM-4.6V-Flash."""
    config = VisionConfig(
        depth=1, hidden_size=1536, num_heads=12, out_hidden_size=4096, intermediate_size=13696, image_size=336
    )
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(VisionTower(config).parameters())}
    assert shapes == {
        "patch_embed.proj.weight": (1536, 2, 14, 14, 3),
        "patch_embed.proj.bias": (1536,),
        "post_conv_layernorm.weight": (1536,),
        "embeddings.position_embedding.weight": (576, 1536),
        "blocks.0.norm1.weight": (1536,),
        "blocks.0.norm2.weight": (1536,),
        "blocks.0.attn.qkv.weight": (4608, 1536),
        "blocks.0.attn.proj.weight": (1536, 1536),
        "blocks.0.mlp.gate_proj.weight": (4096, 1536),
        "blocks.0.mlp.up_proj.weight": (4096, 1536),
        "blocks.0.mlp.down_proj.weight": (1536, 4096),
        "post_layernorm.weight": (1536,),
        "downsample.weight": (4096, 2, 2, 1536),
        "downsample.bias": (4096,),
        "merger.proj.weight": (4096, 4096),
        "merger.post_projection_norm.weight": (4096,),
        "merger.post_projection_norm.bias": (4096,),
        "merger.gate_proj.weight": (13696, 4096),
        "merger.up_proj.weight": (13696, 4096),
        "merger.down_proj.weight": (4096, 13696),
    }


@pytest.mark.usefixtures("exact_inputs")
def test_quantised() -> None:
    """Every layer that MLX would quantise may be: the result is that of the weights it stands for."""
    pixels = pixels_of(FIVE)
    quantised, floats = tower(), tower()
    nn.quantize(quantised, group_size=32, bits=8)
    layers = dict(quantised.named_modules())
    changed = [name for name, layer in layers.items() if isinstance(layer, nn.QuantizedLinear)]
    assert len(changed) == 2 * 5 + 4
    assert not any(name.startswith(("patch_embed", "embeddings", "downsample")) for name in changed)
    for name in changed:
        layer = layers[name]
        weight = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=32, bits=8)
        floats.load_weights([(f"{name}.weight", weight)], strict=False)
    got = quantised(pixels, thw(FIVE)).pooler_output
    assert close(got, floats(pixels, thw(FIVE)).pooler_output, 5 * TOLERANCE)
    assert not close(got, tower()(pixels, thw(FIVE)).pooler_output, 1e-4)


def test_half_precision() -> None:
    """Pixels take the tower's dtype, and the result has it."""
    model, pixels = tower(), pixels_of(FIVE)
    expected = model(pixels, thw(FIVE)).pooler_output
    model.set_dtype(mx.bfloat16)
    got = model(pixels, thw(FIVE))
    assert got.pooler_output.dtype == got.last_hidden_state.dtype == mx.bfloat16
    assert close(got.pooler_output.astype(mx.float32), expected, 0.05)


@pytest.mark.parametrize(
    ("shape", "grids", "message"),
    [
        ((24, 1176), [[1, 4, 4]], r"\(24, 1176\).*16 patches of 1176"),
        ((16, 588), [[1, 4, 4]], r"16 patches of 1176.*processor"),
        ((1, 16, 1176), [[1, 4, 4]], "16 patches"),
        ((0, 1176), [], "the 0 pictures"),
        ((15, 1176), [[1, 3, 5]], r"\[1, 3, 5\].*2 divides"),
        ((16, 1176), [[0, 4, 4]], "at least one frame"),
        ((16, 1176), [[1, 4, -4]], "a grid is"),
        ((16, 1176), [[4, 4]], "a grid is"),
    ],
)
def test_what_does_not_fit(shape: tuple[int, ...], grids: list[list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tower()(mx.zeros(shape), grids)
    if grids:
        with pytest.raises(InputError, match=message):
            tower()(mx.zeros(shape), mx.array(grids))


def test_unknown_activation() -> None:
    config = glm_config(DENSE)
    config["vision_config"]["hidden_act"] = "swish2"
    with pytest.raises(ConfigError, match="swish2"):
        VisionTower(ModelConfig.from_dict(config).vision_config)
