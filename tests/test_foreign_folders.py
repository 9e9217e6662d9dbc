"""Whatever a folder holds: one clear error before anything is built, at every door that opens one."""

from __future__ import annotations

import json
import os
import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from comparing import LONG
from damage import edit_weights
from glm_models import prompt
from glm_tiny import MOE, glm_config, glm_weights
from recipes import RECIPES
from safetensors.numpy import load_file, save_file
from tiny import write_json

import mlx_mm
from mlx_mm.cli.info import describe_model
from mlx_mm.errors import ConfigError, InputError, MlxMmError, QuantizationError, UnsupportedModelError, WeightsError
from mlx_mm.load import open_checkpoint

pytestmark = [*LONG]

Checkpoint = Callable[..., Path]
JOINT = [name for name in RECIPES if "-" not in name]
TOO_LARGE = (2**31, 10**400)


def put(folder: Path, keys: tuple[str, ...], value: Any, file: str = "config.json") -> Path:
    """The folder with another value in a JSON file; a text that begins with @ is taken as it is."""
    path = folder / file
    values = json.loads(path.read_text("utf-8")) if path.exists() else {}
    section = values
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    section[keys[-1]] = value
    text = json.dumps(values)
    if isinstance(value, str) and value.startswith("@"):
        text = text.replace(json.dumps(value), value[1:])
    path.write_text(text, "utf-8")
    return folder


def every_door(folder: Path, out: Path, error: type[MlxMmError] | tuple[type[MlxMmError], ...]) -> list[str]:
    """What load, info and convert say."""
    said = []
    for door in (mlx_mm.load, lambda folder: describe_model(str(folder)), lambda folder: mlx_mm.convert(folder, out)):
        with pytest.raises(error) as caught:
            door(folder)
        str(caught.value).encode()
        assert len(str(caught.value)) < 2000
        said.append(str(caught.value))
    assert not out.exists()
    return said


# --- config.json ----------------------------------------------------------------------------------------------------

SIZES = {
    "siglip": [("text_config", "num_hidden_layers"), ("vision_config", "image_size"), ("text_config", "vocab_size")],
    "siglip2": [("vision_config", "num_patches"), ("vision_config", "hidden_size"), ("vision_config", "patch_size")],
    "clip": [("vision_config", "num_hidden_layers"), ("text_config", "max_position_embeddings"), ("projection_dim",)],
    "metaclip_2": [("text_config", "intermediate_size"), ("vision_config", "num_channels")],
    "clap": [("audio_config", "spec_size"), ("audio_config", "num_mel_bins"), ("audio_config", "window_size")],
    "jina_clip": [
        ("vision_config", "layers"),
        ("vision_config", "image_size"),
        ("text_config", "max_position_embeddings"),
    ],
    "glm46v": [("text_config", "num_hidden_layers"), ("vision_config", "depth"), ("text_config", "hidden_size")],
    "glm4v_moe": [("text_config", "n_routed_experts"), ("vision_config", "image_size"), ("text_config", "head_dim")],
}


@pytest.mark.parametrize(("name", "keys"), [(name, keys) for name, rows in SIZES.items() for keys in rows])
def test_sizes_that_no_tensor_has(
    name: str, keys: tuple[str, ...], tmp_path: Path, tiny_checkpoint: Checkpoint
) -> None:
    folder = tiny_checkpoint(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for value in TOO_LARGE:
        assert all(keys[-1] in said for said in every_door(put(folder, keys, value), tmp_path / "out", ConfigError))
    put(folder, keys, 10**9)
    if keys[-1] != "max_position_embeddings" or name != "jina_clip":  # there it is a limit, and no tensor has it
        every_door(folder, tmp_path / "out", ConfigError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB; on macOS bytes


@pytest.mark.parametrize("name", ["siglip2", "glm4v_moe"])
@pytest.mark.parametrize("format_", ["mlx", "torch"])
def test_sizes_are_held_against_every_kind_of_file(
    name: str, format_: str, tmp_path: Path, tiny_checkpoint: Checkpoint
) -> None:
    folder = tiny_checkpoint(name)
    if format_ == "mlx":
        mlx_mm.convert(folder, tmp_path / "mlx", group_size=32)
        folder = tmp_path / "mlx"
    else:
        from torch_writer import write_torch

        write_torch(folder / "pytorch_model.bin", load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
    mlx_mm.load(folder)
    layers = "depth" if name == "glm4v_moe" else "num_hidden_layers"
    with pytest.raises(ConfigError, match=f"{layers} = 1000000, and the weights beside it have .* tensors in all"):
        open_checkpoint(put(folder, ("vision_config", layers), 10**6))


def test_a_picture_of_sound_that_no_tensor_bounds(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = put(tiny_checkpoint("clap"), ("audio_config", "spec_size"), 1 << 20)
    assert all("spec_size 1048576" in said for said in every_door(folder, tmp_path / "out", ConfigError))


def test_long_lists(tiny_checkpoint: Checkpoint) -> None:
    folder = put(tiny_checkpoint("clap"), ("audio_config", "depths"), [2] * 10**5)
    put(folder, ("audio_config", "num_attention_heads"), [2] * 10**5)
    with pytest.raises(ConfigError, match=r"depths = \(2, 2, .*….*; expected a short list"):
        mlx_mm.load(folder)


@pytest.mark.parametrize(
    "value",
    [
        *("@" + "[" * 5000, "@" + "[" * 900 + "]" * 900, '@"\\ud800"', '@{"\\udc00": 1}', '@"\\ud83d\\u0041"'),
        *("@NaN", "@-Infinity", "@[1e400]"),
    ],
    ids=["open", "deep", "high half", "key", "half pair", "no number", "infinity", "beyond float64"],
)
@pytest.mark.parametrize("name", ["siglip", "glm46v"])
def test_json_that_could_not_be_written_again(
    name: str, value: str, tmp_path: Path, tiny_checkpoint: Checkpoint
) -> None:
    folder = put(tiny_checkpoint(name), ("any_key",), value)
    assert all("config.json" in said for said in every_door(folder, tmp_path / "out", ConfigError))


def test_a_byte_order_mark_and_pairs_are_read(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = put(tiny_checkpoint("siglip"), ("any_key",), '@"\\ud83d\\ude00 \\\\ud800"')
    config = folder / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert open_checkpoint(folder).values["any_key"] == "😀 \\ud800"
    mlx_mm.convert(folder, tmp_path / "out")


@pytest.mark.parametrize("name", JOINT)
def test_architectures(name: str, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint(name)
    for value in (5, 0, True, "x", [["x"]], [5], [None], {"a": 1}, [{}], ["\n"]):
        every_door(put(folder, ("architectures",), value), tmp_path / "out", UnsupportedModelError)


@pytest.mark.parametrize("name", JOINT)
def test_sections(name: str, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint(name)
    for value in (1.5, [], None, "x", [1], True):
        every_door(put(folder, ("text_config",), value), tmp_path / "out", ConfigError)


EPSILONS = {"siglip": "layer_norm_eps", "clip": "layer_norm_eps", "clap": "layer_norm_eps", "glm46v": "rms_norm_eps"}


@pytest.mark.parametrize("name", EPSILONS)
def test_epsilons(name: str, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint(name)
    for value in (-1, 0, "@NaN", "@1e400", "@-Infinity", "1e-5", True, 10**400):
        put(folder, ("text_config", EPSILONS[name]), value)
        assert all(EPSILONS[name] in said for said in every_door(folder, tmp_path / "out", ConfigError))


@pytest.mark.parametrize("name", ["siglip", "clip", "metaclip_2", "clap", "glm46v", "glm4v_moe"])
def test_ids_may_be_zero(name: str, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint(name)
    for value in (0, 3):
        open_checkpoint(put(folder, ("text_config", "pad_token_id"), value)).model()
    if name.startswith("glm"):
        opened = open_checkpoint(put(folder, ("text_config", "eos_token_id"), [0, 5]))
        assert opened.config.eos_token_ids == (0, 5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["clap", "jina_clip", "glm46v"])
def test_ids_that_are_none(name: str, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint(name)
    for value in (-1, 1.0, True, "1", 2**31):
        every_door(put(folder, ("text_config", "pad_token_id"), value), tmp_path / "out", ConfigError)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_labels", 2**31),
        ("num_labels", True),
        ("num_labels", 2.0),
        ("id2label", []),
        ("id2label", {"0": ["x"]}),
        ("id2label", {"0": None}),
        ("id2label", {"00": "x"}),
        ("id2label", {"1": "x"}),
        ("id2label", "x"),
    ],
)
def test_labels(key: str, value: Any, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip-classifier")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    del config["id2label"]
    write_json(folder / "config.json", config)
    every_door(put(folder, (key,), value), tmp_path / "out", ConfigError)


LAYER = "language_model.model.layers.0.self_attn.o_proj"


BLOCKS: list[tuple[tuple[str, ...], Any]] = [
    ((), 5),
    ((), [1]),
    (("bits",), 7),
    (("bits",), "4"),
    (("bits",), True),
    (("bits",), 2**40),
    (("group_size",), 0),
    (("group_size",), -32),
    (("group_size",), 64),
    (("mode",), "other"),
    (("mode",), ["affine"]),
    ((LAYER,), 5),
    ((LAYER,), "x"),
    ((LAYER,), [4]),
    ((LAYER,), {"bits": 7}),
    ((LAYER,), {"bits": [4]}),
    ((LAYER,), {"group_size": 0}),
    ((LAYER,), {"mode": {}}),
]


def test_quantization_blocks(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    mlx_mm.convert(tiny_checkpoint("glm46v"), tmp_path / "q", group_size=32)
    good = (tmp_path / "q" / "config.json").read_text("utf-8")
    for keys, value in BLOCKS:
        (tmp_path / "q" / "config.json").write_text(good, "utf-8")
        put(tmp_path / "q", ("quantization", *keys), value)
        with pytest.raises((ConfigError, QuantizationError, WeightsError)):
            mlx_mm.load(tmp_path / "q")


# --- the files of the processor -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "key", "value"),
    [
        ("siglip", "preprocessor_config.json", "size", {"height": 10**9, "width": 10**9}),
        ("siglip", "preprocessor_config.json", "image_mean", [True, False, True]),
        ("siglip", "preprocessor_config.json", "image_std", [10**400, 1, 1]),
        ("siglip", "preprocessor_config.json", "rescale_factor", 10**400),
        ("clip", "preprocessor_config.json", "size", {"shortest_edge": 2**40}),
        ("clip", "preprocessor_config.json", "resample", [2]),
        ("clap", "preprocessor_config.json", "max_length_s", 1e308),
        ("clap", "preprocessor_config.json", "feature_size", 10**9),
        ("clap", "preprocessor_config.json", "fft_window_size", 2**31),
        ("clap", "preprocessor_config.json", "sampling_rate", 2**40),
        ("clap", "preprocessor_config.json", "truncation", ["fusion"]),
        ("glm46v", "preprocessor_config.json", "size", {"shortest_edge": 10**12, "longest_edge": 10**12}),
        ("glm46v", "preprocessor_config.json", "processor_class", ["x"]),
        ("glm46v", "video_preprocessor_config.json", "fps", "@NaN"),
        ("glm46v", "video_preprocessor_config.json", "fps", [2]),
        ("glm46v", "generation_config.json", "eos_token_id", "x"),
        ("glm46v", "generation_config.json", "eos_token_id", [2**31]),
        ("glm46v", "generation_config.json", "temperature", "@NaN"),
        ("glm46v", "generation_config.json", "temperature", "@1e400"),
        ("glm46v", "generation_config.json", "top_p", 7),
        ("glm46v", "generation_config.json", "top_k", 1.5),
        ("glm46v", "generation_config.json", "repetition_penalty", 0),
        ("glm46v", "tokenizer_config.json", "pad_token", '@"\\ud800"'),
        ("siglip", "preprocessor_config.json", "x", "@" + "[" * 5000),
    ],
)
def test_processor_files(name: str, file: str, key: str, value: Any, tiny_checkpoint: Checkpoint) -> None:
    folder = put(tiny_checkpoint(name), (key,), value, file)
    with pytest.raises(ConfigError) as caught:
        open_checkpoint(folder).processor()
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), lambda p: os.symlink(p, p)])
def test_what_is_no_file(file: str, make: Callable[[Path], None], tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip")
    (folder / file).unlink()
    make(folder / file)
    with pytest.raises(ConfigError, match=f"{file} cannot be read"):
        mlx_mm.load(folder)


# --- tensors --------------------------------------------------------------------------------------------------------


def first(weights: dict[str, np.ndarray], part: str) -> str:
    return next(name for name in sorted(weights) if part in name)


CHANGES: tuple[Callable[[Any], Any], ...] = (
    lambda a: a[:-1],
    lambda a: a.reshape(-1),
    lambda a: a[None],
    lambda a: a[..., :-1],
    lambda a: a.T,
    lambda a: a.flat[0],
    lambda a: a[:0],
)


@pytest.mark.parametrize(
    ("name", "part", "word"),
    [
        ("siglip", "in_proj_weight", "head.attention"),
        ("siglip", "patch_embedding.weight", "patch_embedding.weight"),
        ("clip", "patch_embedding.weight", "patch_embedding.weight"),
        ("clap-fused", "mel_conv2d.weight", "mel_conv2d.weight"),
        ("clap", "patch_embed.proj.weight", "patch_embed.proj.weight"),
        ("jina_clip", "Wqkv.parametrizations.weight.0.lora_A", "mixer.Wqkv"),
        ("jina_clip", "Wqkv.parametrizations.weight.original", "mixer.Wqkv"),
        ("jina_clip", "word_embeddings.parametrizations.weight.original", "word_embeddings"),
        ("jina_clip", "pos_embed", "position_embedding"),
        ("glm46v", "patch_embed.proj.weight", "patch_embed.proj.weight"),
        ("glm46v", "gate_up_proj.weight", "gate_up_proj.weight"),
        ("glm4v_moe", "experts.1.up_proj.weight", "switch_mlp.up_proj.weight of expert 1"),
        ("glm4v_moe", "downsample.weight", "downsample.weight"),
    ],
)
def test_tensors_of_other_shapes(name: str, part: str, word: str, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    """The match names the tensor, whatever the family would have done with it."""
    folder = tiny_checkpoint(name)
    good = load_file(folder / "model.safetensors")
    changed = first(good, part)
    for change in CHANGES:
        array = np.ascontiguousarray(change(good[changed])).reshape(np.shape(change(good[changed])))
        if array.shape == good[changed].shape:
            continue
        save_file(good | {changed: array}, folder / "model.safetensors")
        for door in (mlx_mm.load, lambda source: mlx_mm.convert(source, tmp_path / "out", group_size=32)):
            with pytest.raises(WeightsError) as caught:
                door(folder)
            assert not {"[concatenate]", "[split]", "[reshape]"} & set(str(caught.value).split())
            assert word in str(caught.value)


def test_an_expert_of_another_type(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("glm4v_moe")
    edit_weights(lambda w: w.update({(name := first(w, "experts.2.up_proj")): w[name].astype(np.float16)}))(folder)
    with pytest.raises(WeightsError, match=r"1 unexpected: .*switch_mlp\.up_proj\.weight of expert 2"):
        mlx_mm.load(folder)


@pytest.mark.parametrize("bits", [None, 4])
def test_whole_numbers_in_the_place_of_weights(bits: int | None, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("clip")
    edit_weights(lambda w: w.update({(name := first(w, "fc1.weight")): w[name].astype(np.int32)}))(folder)
    for door in (mlx_mm.load, lambda source: mlx_mm.convert(source, tmp_path / "out", bits=bits, group_size=32)):
        with pytest.raises(WeightsError, match=r"stores .*fc1\.weight as int32; expected float32"):
            door(folder)


@pytest.mark.parametrize("value", [1e38, -3e38, 1e25, np.nan, np.inf])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_numbers_that_no_model_computes_with(
    value: float, bits: int | None, tmp_path: Path, tiny_checkpoint: Checkpoint
) -> None:
    folder = tiny_checkpoint("siglip2")
    edit_weights(lambda w: w[first(w, "fc1.weight")].__setitem__((3, 5), value))(folder)
    for door in (mlx_mm.load, lambda source: mlx_mm.convert(source, tmp_path / "out", bits=bits, group_size=32)):
        with pytest.raises(WeightsError, match=r"fc1\.weight"):
            door(folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["scales", "biases"])
def test_groups_that_are_not_finite(part: str, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    mlx_mm.convert(tiny_checkpoint("siglip2"), tmp_path / "q", group_size=32, dtype="bfloat16")
    arrays = mx.load(str(tmp_path / "q" / "model.safetensors"))
    assert isinstance(arrays, dict)
    name = first(arrays, part)  # type: ignore[arg-type]
    arrays[name] = mx.full(arrays[name].shape, mx.inf, mx.bfloat16)
    mx.save_safetensors(str(tmp_path / "q" / "model.safetensors"), arrays, {"format": "mlx"})
    with pytest.raises(WeightsError, match=f"NaN or infinite numbers in {name}"):
        mlx_mm.load(tmp_path / "q")


def test_a_dtype_that_cannot_hold_the_weights(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip2")
    edit_weights(lambda w: w[first(w, "fc1.bias")].__setitem__(3, 1e6))(folder)
    with pytest.raises(InputError, match=r"dtype is float16, and .*fc1\.bias .* numbers up to 1e\+06"):
        mlx_mm.load(folder, dtype="float16")
    mlx_mm.load(folder, dtype="bfloat16")


@pytest.mark.parametrize("bits", [None, 4])
def test_zeros_are_not_converted(bits: int | None, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("siglip2")
    edit_weights(lambda w: w.update({name: array * 0 for name, array in w.items()}))(folder)
    with pytest.raises(WeightsError, match=r"nothing but zeros in .* matrices: "):
        mlx_mm.convert(folder, tmp_path / "out", bits=bits, group_size=32)
    assert not (tmp_path / "out").exists()


# --- config and tensors that disagree -------------------------------------------------------------------------------


def logits(model: Any) -> np.ndarray:
    return np.array(model(**prompt(10, 11, (4, 6), 12)).logits)


@pytest.mark.parametrize("where", ["top", "text_config"])
def test_a_head_of_its_own_counts(where: str, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("glm4v")
    right = logits(mlx_mm.load(folder)[0])
    put(folder, ("tie_word_embeddings",) if where == "top" else (where, "tie_word_embeddings"), True)
    with pytest.warns(UserWarning, match=r"tie_word_embeddings, and lm_head\.weight in the weights differs"):
        model, _ = mlx_mm.load(folder)
    assert np.array_equal(logits(model), right)
    with pytest.warns(UserWarning, match="the weights' own head is used"):
        mlx_mm.convert(folder, tmp_path / "out", bits=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(logits(mlx_mm.load(tmp_path / "out")[0]), right)


def test_an_equal_head_is_tied_silently(tiny_checkpoint: Checkpoint) -> None:
    folder = put(tiny_checkpoint("glm46v"), ("tie_word_embeddings",), True)
    edit_weights(lambda w: w.update({"lm_head.weight": w[first(w, "embed_tokens")]}))(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = mlx_mm.load(folder)
    assert "lm_head" not in model.language_model  # type: ignore[attr-defined]


def test_biases_that_the_config_has_not(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    """As in transformers: they are left out."""
    folder = tiny_checkpoint("glm4v_moe")
    edit_weights(
        lambda w: [w.update({n: a * 0}) for n, a in list(w.items()) if n.endswith("proj.bias") and "self_attn" in n]
    )(folder)
    right = logits(mlx_mm.load(folder)[0])
    folder = put(tiny_checkpoint("glm4v_moe", name="other"), ("text_config", "attention_bias"), False)
    with pytest.warns(UserWarning, match="attention_bias false, and the weights have 9 biases"):
        model, _ = mlx_mm.load(folder)
    assert np.abs(logits(model) - right).max() < 1e-5
    with pytest.warns(UserWarning, match="left out"):
        mlx_mm.convert(folder, tmp_path / "out", bits=None)
    assert open_checkpoint(tmp_path / "out").values["text_config"]["attention_bias"] is False  # type: ignore[index]
    assert np.abs(logits(mlx_mm.load(tmp_path / "out")[0]) - right).max() < 1e-5


def test_no_dense_layer(tmp_path: Path) -> None:
    config = glm_config(MOE) | {"model_type": "glm4v_moe", "architectures": ["Glm4vMoeForConditionalGeneration"]}
    config["text_config"]["first_k_dense_replace"] = 0
    RECIPES["glm4v_moe"].write(tmp_path)
    write_json(tmp_path / "config.json", config)
    save_file(glm_weights(config), tmp_path / "model.safetensors")
    model, _ = mlx_mm.load(tmp_path)
    assert all("switch_mlp" in layer.mlp for layer in model.language_model.model.layers)  # type: ignore[attr-defined]
    assert np.isfinite(logits(model)).all()


@pytest.mark.parametrize(
    ("name", "architecture", "modality"),
    [
        ("siglip", "SiglipTextModel", "text"),
        ("clip", "CLIPVisionModelWithProjection", "image"),
        ("clap", "ClapAudioModel", "audio"),
    ],
)
@pytest.mark.parametrize("bits", [None, 4])
def test_one_tower_of_a_converted_joint_model(
    name: str, architecture: str, modality: str, bits: int | None, tmp_path: Path, tiny_checkpoint: Checkpoint
) -> None:
    mlx_mm.convert(tiny_checkpoint(name), tmp_path / "out", bits=bits, group_size=32)
    model, _ = mlx_mm.load(put(tmp_path / "out", ("architectures",), [architecture]))
    assert model.modalities == (modality,)
