"""`load`: every kind of folder it takes, and one clear error for every kind it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from damage import DAMAGE, Damage, edit_config, listing
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchLinear
from tiny import (
    golden,
    tiny_batch,
    tiny_config,
    tiny_weights,
    write_checkpoint,
)

import mlx_mm
from mlx_mm.backend import device
from mlx_mm.errors import (
    ConfigError,
    InputError,
    MlxMmError,
    ModalityError,
    ModelNotFoundError,
    QuantizationError,
    UnsupportedModelError,
    WeightsError,
)
from mlx_mm.load import open_checkpoint

Checkpoint = Callable[..., Path]
FAMILIES = ["siglip", "siglip2"]


def outputs(model: Any, family: str) -> dict[str, np.ndarray]:
    out = model(**{name: mx.array(value) for name, value in tiny_batch(family).items()})
    return {name: np.array(getattr(out, name)) for name in ("text_embeds", "image_embeds", "logits_per_text")}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


# --- folders it takes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_config_has_the_class_defaults(family: str) -> None:
    rooms = mlx_mm.models.find_family(family)
    towers = {f"{name}_config": {"model_type": f"{family}_{name}_model"} for name in ("text", "vision")}
    config = rooms.config.from_dict({"model_type": family, "initializer_factor": 1.0, **towers})
    for tower in (config.text_config, config.vision_config):
        assert (tower.hidden_size, tower.intermediate_size) == (768, 3072)
        assert (tower.num_hidden_layers, tower.num_attention_heads) == (12, 12)
        assert tower.hidden_act == "gelu_pytorch_tanh"
        assert tower.layer_norm_eps == 1e-6
    assert (config.text_config.vocab_size, config.text_config.max_position_embeddings) == (32000, 64)
    assert (config.vision_config.patch_size, config.vision_config.num_channels) == (16, 3)
    assert config.vision_config.num_patches == (256 if family == "siglip2" else 196)


@pytest.mark.parametrize("row", golden("siglip2_checkpoints")["checkpoints"], ids=lambda row: row["id"])
def test_published_parameter_counts(row: dict[str, Any]) -> None:
    """Every published checkpoint: the model built from its config has exactly the published size."""
    rooms = mlx_mm.models.find_family(row["model_type"])
    model = rooms.architecture(None)(rooms.config.from_dict(row))
    parameters = tree_flatten(model.parameters())  # lazy: nothing is computed
    assert sum(array.size for _, array in parameters) == row["params_total"]
    for tower, key in (("vision_model", "params_vision_tower"), ("text_model", "params_text_tower")):
        assert sum(array.size for name, array in parameters if name.startswith(tower)) == row[key]


@pytest.mark.parametrize("prefixed", [True, False], ids=["4.x names", "5.x names"])
@pytest.mark.parametrize("tower", ["text", "vision"])
@pytest.mark.parametrize("family", FAMILIES)
def test_single_tower(family: str, tower: str, prefixed: bool, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    full_config = tiny_config(family)
    config = full_config[f"{tower}_config"]
    config["architectures"] = [f"{family.capitalize()}{tower.capitalize()}Model"]
    prefix = f"{tower}_model."
    weights = {name: w for name, w in tiny_weights(tiny_config(family)).items() if name.startswith(prefix)}
    if not prefixed:
        weights = {name.removeprefix(prefix): w for name, w in weights.items()}
    folder = write_checkpoint(tmp_path / "tower", config, weights)
    model, processor = mlx_mm.load(folder)
    full, _ = mlx_mm.load(tiny_checkpoint(family))
    batch = {name: mx.array(value) for name, value in tiny_batch(family).items()}
    if tower == "text":
        assert model.modalities == ("text",)
        assert not hasattr(model, "vision_model")
        assert mx.array_equal(model.get_text_features(batch["input_ids"]), full.get_text_features(batch["input_ids"]))
        with pytest.raises(ModalityError, match="vision"):
            model.get_image_features(pixel_values=batch["pixel_values"])
        with pytest.raises(ModalityError):
            mlx_mm.encode_image(model, processor, np.zeros((8, 8, 3), np.uint8))
    else:
        batch.pop("input_ids")
        assert model.modalities == ("image",)
        assert not hasattr(model, "text_model")
        assert mx.array_equal(model.get_image_features(**batch), full.get_image_features(**batch))
        with pytest.raises(ModalityError, match="text"):
            model.get_text_features(mx.zeros((1, 16), mx.int32))
        with pytest.raises(ModalityError):
            mlx_mm.encode_text(model, processor, "a cat")


def test_old_buffers_are_ignored(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    """transformers before 4.31 saved `position_ids`."""
    config = tiny_config("siglip")
    weights = tiny_weights(config)
    weights["text_model.embeddings.position_ids"] = np.arange(16, dtype=np.int64)[None]
    weights["vision_model.embeddings.position_ids"] = np.arange(9, dtype=np.int64)[None]
    old, _ = mlx_mm.load(write_checkpoint(tmp_path / "old", config, weights))
    new, _ = mlx_mm.load(tiny_checkpoint("siglip"))
    assert same(outputs(old, "siglip"), outputs(new, "siglip"))


def test_config_of_transformers_5(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    """Version 5 writes `dtype` for `torch_dtype` and every default of the towers."""
    config = tiny_config("siglip2")
    config["dtype"] = config.pop("torch_dtype")
    extras = {"attention_dropout": 0.0, "dtype": "float32", "_attn_implementation": None, "chunk_size": 3}
    for tower in ("text_config", "vision_config"):
        config[tower] |= extras
    config["text_config"] |= {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}
    new, _ = mlx_mm.load(write_checkpoint(tmp_path / "five", config, tiny_weights(config)))
    old, _ = mlx_mm.load(tiny_checkpoint("siglip2"))
    assert same(outputs(new, "siglip2"), outputs(old, "siglip2"))


def test_folder_name_means_nothing(tiny_checkpoint: Checkpoint) -> None:
    model, _ = mlx_mm.load(tiny_checkpoint("siglip", name="siglip2-base-patch16-naflex"))
    assert outputs(model, "siglip")["image_embeds"].shape == (3, 128)


@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_half_precision_checkpoint(stored: type, tmp_path: Path) -> None:
    config = tiny_config("siglip2")
    weights = {name: w.astype(np.float16).astype(stored) for name, w in tiny_weights(config).items()}
    model, _ = mlx_mm.load(write_checkpoint(tmp_path / "half", config, weights), dtype="float32")
    assert {array.dtype for _, array in tree_flatten(model.parameters())} == {mx.float32}
    full, _ = mlx_mm.load(
        write_checkpoint(tmp_path / "full", config, {name: w.astype(np.float32) for name, w in weights.items()})
    )
    assert same(outputs(model, "siglip2"), outputs(full, "siglip2"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", mx.bfloat16])
def test_dtype_is_honoured(dtype: Any, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip2")
    model, _ = mlx_mm.load(folder, dtype=dtype)
    wanted = mx.float16 if dtype == "float16" else mx.bfloat16
    assert {array.dtype for _, array in tree_flatten(model.parameters())} == {wanted}
    batch = {name: mx.array(value) for name, value in tiny_batch("siglip2").items()}
    low = np.array(model(**batch).image_embeds.astype(mx.float32))
    full = outputs(mlx_mm.load(folder)[0], "siglip2")["image_embeds"]
    assert ((low * full).sum(-1) / np.linalg.norm(low, axis=-1)).min() > 0.9998


# --- before the weights are read --------------------------------------------------------------------------------

ABOUT = {
    "siglip": ("encoder", ("text", "image")),
    "clip": ("encoder", ("text", "image")),
    "clap": ("encoder", ("text", "audio")),
    "jina_clip": ("encoder", ("text", "image")),
    "glm46v": ("generator", ("text", "image", "video")),
    "glm4v_moe": ("generator", ("text", "image", "video")),
}


@pytest.mark.parametrize("family", ABOUT)
def test_a_checkpoint_says_what_it_takes(family: str, tiny_checkpoint: Checkpoint) -> None:
    """Before any weights are read: a command for sounds must refuse a model of images at once, whatever its size."""
    folder = tiny_checkpoint(family)
    (folder / "model.safetensors").unlink()
    opened = open_checkpoint(folder)
    assert (opened.kind, opened.modalities) == ABOUT[family]
    assert opened.folder == folder
    assert opened.values["model_type"] == family
    assert opened.processor().modalities == opened.modalities
    with pytest.raises(WeightsError, match="has no weights"):
        opened.load()


def test_single_towers_and_classifiers_say_so(tmp_path: Path) -> None:
    config = tiny_config("siglip") | {"architectures": ["SiglipForImageClassification"]}
    folder = write_checkpoint(tmp_path / "classifier", config, {"x": np.zeros(1, np.float32)})
    assert (open_checkpoint(folder).kind, open_checkpoint(folder).modalities) == ("classifier", ("image",))
    config = tiny_config("siglip")["text_config"]
    folder = write_checkpoint(tmp_path / "tower", config, {"x": np.zeros(1, np.float32)})
    assert open_checkpoint(folder).modalities == ("text",)


def test_a_model_of_any_size_is_built_for_nothing(tiny_checkpoint: Checkpoint) -> None:
    """The 9B model's widths: 20 GB, had anything been computed."""
    folder = tiny_checkpoint("glm46v")
    wide = {"hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40, "vocab_size": 151552}
    rope = {"mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5, "rope_theta": 1e4, "rope_type": "default"}
    wide |= {"num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "rope_parameters": rope}
    vision = {"hidden_size": 1536, "depth": 24, "num_heads": 12, "out_hidden_size": 4096, "intermediate_size": 13696}
    edit_config(lambda c: (c["text_config"].update(wide), c["vision_config"].update(vision)))(folder)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    opened = open_checkpoint(folder)
    assert sum(array.size for _, array in tree_flatten(opened.model().parameters())) > 9e9
    assert opened.kind == "generator"
    assert mx.get_peak_memory() - before < 1 << 20


def test_one_opened_checkpoint_gives_many_models(tiny_checkpoint: Checkpoint) -> None:
    opened = open_checkpoint(tiny_checkpoint("siglip2"))
    (first, _), (second, _) = opened.load(), opened.load(lazy=True)
    assert first is not second
    assert same(outputs(first, "siglip2"), outputs(second, "siglip2"))
    direct, _ = mlx_mm.load(opened.folder)
    assert same(outputs(first, "siglip2"), outputs(direct, "siglip2"))
    with pytest.raises(InputError, match="float32"):
        opened.load(dtype="int8")


@pytest.mark.parametrize("names", [["BertModel"], [None], [3], {"a": 1}, 7])
def test_architectures_that_are_none(names: Any, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip")
    edit_config(lambda c: c.update(architectures=names))(folder)
    with pytest.raises(UnsupportedModelError, match=r"architecture .* siglip2 runs Siglip2"):
        open_checkpoint(folder).model()


# --- what a GPU computes in -------------------------------------------------------------------------------------


def dtypes_on_a_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, mx.Dtype]:
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    model, _ = mlx_mm.load(folder, **options)
    return {name: array.dtype for name, array in tree_flatten(model.parameters())}


def stored_as(folder: Path, dtype: mx.Dtype) -> Path:
    file = str(folder / "model.safetensors")
    loaded: Any = mx.load(file)
    mx.save_safetensors(file, {name: array.astype(dtype) for name, array in loaded.items()})
    return folder


@pytest.mark.parametrize("family", ["siglip2", "clip", "clap", "glm46v"])
def test_float16_where_it_is_enough(family: str, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model says for which weights; the others become float32."""
    folder = stored_as(tiny_checkpoint(family), mx.float16)
    model = open_checkpoint(folder).model()
    found = dtypes_on_a_gpu(folder, monkeypatch)
    assert found == {name: mx.float16 if model.cast_predicate(name) else mx.float32 for name in found}
    assert mx.float16 in found.values()
    if family in ("siglip2", "clip"):
        text = {name: dtype for name, dtype in found.items() if name.startswith("text_model.")}
        assert set(text.values()) == {mx.float32}
    asked = dtypes_on_a_gpu(folder, monkeypatch, dtype="float16")
    assert set(asked.values()) == {mx.float16}


@pytest.mark.parametrize("family", ["siglip2", "glm46v"])
@pytest.mark.parametrize("stored", [mx.bfloat16, mx.float32], ids=str)
def test_other_dtypes_stay(
    family: str, stored: mx.Dtype, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored_as(tiny_checkpoint(family), stored)
    assert set(dtypes_on_a_gpu(folder, monkeypatch).values()) == {stored}


@pytest.mark.parametrize("family", ["siglip2", "glm4v_moe"])
@pytest.mark.parametrize("stored", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("kernels", [True, False])
def test_on_a_cpu_everything_is_float32(
    family: str, stored: mx.Dtype, kernels: bool, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the weights of products, those of experts too, which kernels read as they are stored."""
    monkeypatch.setattr(device, "has_kernels", lambda: kernels)
    model, _ = mlx_mm.load(stored_as(tiny_checkpoint(family), stored))
    kinds = nn.Linear | SwitchLinear
    layers = {f"{path}.weight" for path, layer in model.named_modules() if isinstance(layer, kinds)}
    assert any("switch_mlp" in name for name in layers) == (family == "glm4v_moe")
    for name, array in tree_flatten(model.parameters()):
        assert array.dtype == (stored if kernels and name in layers else mx.float32), name


def test_scales_of_a_converted_file_on_a_gpu(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 scales would make the GPU compute in float32."""
    mlx_mm.convert(tiny_checkpoint("siglip2"), tmp_path / "out", group_size=32)
    found = dtypes_on_a_gpu(tmp_path / "out", monkeypatch)
    layer = "encoder.layers.0.mlp.fc1"
    assert found[f"vision_model.{layer}.weight"] == mx.uint32
    assert found[f"vision_model.{layer}.scales"] == found["vision_model.post_layernorm.weight"] == mx.float16
    assert found[f"text_model.{layer}.scales"] == mx.float32


# --- what it refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_checkpoint(damage: Damage, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip")
    damage.spoil(folder)
    before = listing(folder)
    with pytest.raises(MlxMmError) as caught:
        mlx_mm.load(folder)
    assert type(caught.value) is damage.error
    for word in damage.words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert listing(folder) == before


def test_public_names_are_listed() -> None:
    assert set(mlx_mm.__all__) <= set(dir(mlx_mm))
    assert dir(mlx_mm) == sorted(dir(mlx_mm))


def test_many_missing_tensors_are_counted_and_ten_named(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip")
    edit_config(lambda c: c["text_config"].update(num_hidden_layers=5))(folder)
    with pytest.raises(WeightsError) as caught:
        mlx_mm.load(folder)
    text = str(caught.value)
    assert "48 missing" in text
    assert text.count("text_model.encoder.layers.") == 10
    assert str(folder) in text


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        mlx_mm.load(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        mlx_mm.load("no-such-model")


def test_file_instead_of_folder(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors"):
        mlx_mm.load(tiny_checkpoint("siglip") / "model.safetensors")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        mlx_mm.load(tmp_path)


def test_revision_of_a_folder(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelNotFoundError, match="revision"):
        mlx_mm.load(tiny_checkpoint("siglip"), revision="main")


@pytest.mark.parametrize("dtype", ["int8", "float64", "", 3, mx.int32])
def test_unknown_dtype(dtype: Any, tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="float32"):
        mlx_mm.load(tiny_checkpoint("siglip"), dtype=dtype)


def test_same_tensor_in_two_shards(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip", shards=2)
    first, second = sorted(folder.glob("model-*.safetensors"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(WeightsError):
        mlx_mm.load(folder)


@pytest.fixture
def quantised(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    out = tmp_path / "quantised"
    mlx_mm.convert(tiny_checkpoint("siglip2"), out, bits=4, group_size=32)
    return out


def quantisation(**change: Any) -> Callable[[Path], None]:
    def edit(config: dict[str, Any]) -> None:
        for key in ("quantization", "quantization_config"):
            if key in config:
                config[key] = {k: v for k, v in (config[key] | change).items() if v is not ...}

    return edit_config(edit)


WRONG = {
    "bits of another width": {"bits": 8},
    "bits that do not exist": {"bits": 7},
    "bits as text": {"bits": "4"},
    "no bits": {"bits": ...},
    "group of another size": {"group_size": 64},
    "group that does not exist": {"group_size": 48},
    "no group": {"group_size": ...},
    "unknown mode": {"mode": "nonsense"},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_wrong_quantisation_block(change: dict[str, Any], quantised: Path) -> None:
    quantisation(**change)(quantised)
    with pytest.raises((QuantizationError, WeightsError)):
        mlx_mm.load(quantised)


@pytest.mark.parametrize("value", [4, "4bit", [], {}])
def test_quantisation_block_of_another_type(value: Any, quantised: Path) -> None:
    edit_config(lambda c: c.update(quantization=value))(quantised)
    with pytest.raises((ConfigError, QuantizationError, WeightsError)):
        mlx_mm.load(quantised)


def test_scales_without_a_quantisation_block(quantised: Path) -> None:
    edit_config(lambda c: (c.pop("quantization"), c.pop("quantization_config")))(quantised)
    with pytest.raises(WeightsError, match="scales"):
        mlx_mm.load(quantised)
