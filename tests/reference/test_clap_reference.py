"""Random transformers models of CLAP, saved, taken through `convert` and `load`, and compared."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from beside import difference, ours, save, theirs, through_convert
from clap_tiny import buffers, spectrograms, write_clap_side_files
from safetensors.numpy import load_file, save_file
from tiny import hashed, requantised

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import mlx_mm  # noqa: E402
from mlx_mm.errors import InputError  # noqa: E402

EMBEDDING, LOGIT, STATE, SHARE = 1e-5, 1e-4, 1e-4, 1e-5

TEXT = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 34,
}
AUDIO = {
    "depths": [2, 3],
    "hidden_size": 128,
    "num_attention_heads": [2, 4],
    "num_hidden_layers": 2,
    "patch_embeds_hidden_size": 64,
    "patch_size": 16,
    "patch_stride": [16, 16],
    "window_size": 4,
}
# Three stages with windows of 2, of which the last has one window; fewer mels than in the checkpoints
OTHER = {
    "depths": [2, 1, 2],
    "hidden_size": 96,
    "num_attention_heads": [2, 3, 6],
    "num_hidden_layers": 3,
    "num_mel_bins": 32,
    "spec_size": 64,
    "patch_embeds_hidden_size": 24,
    "patch_size": 8,
    "patch_stride": 8,
    "window_size": 2,
    "mlp_ratio": 2.5,
    "qkv_bias": False,
    "aff_block_r": 3,
    "layer_norm_eps": 1e-3,
}
KINDS = ["unfused", "fused"]
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


def randomise(model: Any) -> Any:
    """Every parameter and statistic away from its initial value, at sizes that keep activations of the order of one."""
    torch.manual_seed(0)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.is_floating_point():
            continue
        noise = torch.randn_like(value)
        if name.startswith("logit_scale"):
            noise = torch.full_like(value, 2.3 if name.endswith("a") else 2.9)
        elif name.endswith("running_var"):
            noise = (200 if "audio_encoder.batch_norm" in name else 1) * (1 + 0.2 * noise.abs())
        elif name.endswith("audio_encoder.batch_norm.running_mean"):
            noise = -30 + 5 * noise
        elif value.ndim == 1:
            noise = noise * 0.1 + (1 if "norm" in name.lower() and name.endswith("weight") else 0)
        elif "embeddings" in name or "relative_position" in name:
            noise = noise * 0.5
        else:
            noise = noise / value[0].numel() ** 0.5
        value.data.copy_(noise)
    return model.eval()


def make(kind: str, name: str = "Model", audio: dict[str, Any] = AUDIO, **extra: Any) -> Any:
    """A random model whose attentions can be read. name: as in Clap…, such as TextModelWithProjection."""
    both = {"projection_dim": 96}
    text, sound = TEXT | both, audio | both | {"enable_fusion": kind == "fused"}
    if name.startswith("Text"):
        config = transformers.ClapTextConfig(**text, **extra)
    elif name.startswith("Audio"):
        config = transformers.ClapAudioConfig(**sound, **extra)
    else:
        config = transformers.ClapConfig(text_config=text, audio_config=sound, **both, **extra)
    return randomise(getattr(transformers, f"Clap{name}")._from_config(config, attn_implementation="eager"))


def texts() -> dict[str, np.ndarray]:
    """A full text and two padded ones."""
    ids = np.ones((3, 32), np.int64)
    for row in range(3):
        count = 32 - 11 * row
        ids[row, :count] = 4 + (np.abs(hashed((count,), 500 + row)) * 296).astype(np.int64)
        ids[row, 0], ids[row, count - 1] = 0, 2
    return {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)}


def sounds(kind: str, frames: int = 1001, mels: int = 64) -> dict[str, np.ndarray]:
    if kind == "unfused":
        return {"input_features": spectrograms(3, 1, frames, mels)}
    return {"input_features": spectrograms(3, 4, frames, mels), "is_longer": np.array([[True], [False], [True]])}


def run(reference: Any, batch: dict[str, np.ndarray], **options: Any) -> Any:
    """In float64: torch's float32 positions, by which it resizes 1001 frames, put 2e-4 of error into the patches."""
    exact = {name: x.double() if x.is_floating_point() else x for name, x in theirs(batch).items()}
    with torch.no_grad():
        return copy.deepcopy(reference).double()(**exact, **options)


def compare_tower(got: Any, right: Any, layers: int) -> None:
    assert difference(got.last_hidden_state, right.last_hidden_state) <= STATE
    assert len(got.hidden_states) == len(right.hidden_states) == layers + 1
    assert len(got.attentions) == len(right.attentions) == layers
    for a, b in zip(got.hidden_states, right.hidden_states, strict=True):
        assert difference(a, b) <= STATE
    for a, b in zip(got.attentions, right.attentions, strict=True):
        assert difference(a, b) <= SHARE
    if "pooler_output" in right:
        assert difference(got.pooler_output, right.pooler_output) <= STATE


def compare_joint(got: Any, right: Any, stages: int = 2) -> None:
    for name in ("text_embeds", "audio_embeds"):
        assert difference(getattr(got, name), getattr(right, name)) <= EMBEDDING, name
    for name in ("logits_per_text", "logits_per_audio", "loss"):
        assert difference(getattr(got, name), getattr(right, name)) <= LOGIT, name
    compare_tower(got.text_model_output, right.text_model_output, 3)
    compare_tower(got.audio_model_output, right.audio_model_output, stages)


# --- joint models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_joint_model(kind: str, tmp_path: Path) -> None:
    reference = make(kind)
    batch = texts() | sounds(kind)
    right = run(reference, batch, return_loss=True, **EVERYTHING)
    assert float(right.logits_per_text.max() - right.logits_per_text.min()) > 0.5  # not between constants
    model = through_convert(reference, tmp_path)
    compare_joint(model(**ours(batch), return_loss=True, **EVERYTHING), right)
    direct = mlx_mm.load(tmp_path / "source")[0](**ours(batch))
    for name in ("text_embeds", "audio_embeds", "logits_per_text", "logits_per_audio"):
        assert mx.array_equal(getattr(direct, name), getattr(model(**ours(batch)), name)).item()


@pytest.mark.parametrize("kind", KINDS)
def test_features(kind: str, tmp_path: Path) -> None:
    reference = make(kind)
    model = through_convert(reference, tmp_path)
    hidden = texts()
    hidden["attention_mask"][:, 3] = 0
    for given in (texts(), hidden, texts() | {"position_ids": np.arange(32)[None, ::-1].copy()}):
        with torch.no_grad():
            right = reference.get_text_features(**theirs(given)).pooler_output
        assert difference(model.get_text_features(**ours(given)), right) <= EMBEDDING
    with torch.no_grad():
        right = reference.get_audio_features(**theirs(sounds(kind))).pooler_output
    assert difference(model.get_audio_features(**ours(sounds(kind))), right) <= EMBEDDING


def test_mask_is_read_from_the_padding(tmp_path: Path) -> None:
    """Where transformers takes all ones, with a warning; with ones the two agree again."""
    reference = make("unfused")
    model = through_convert(reference, tmp_path)
    ids = {"input_ids": texts()["input_ids"]}
    with torch.no_grad():
        right = reference.get_text_features(**theirs(texts())).pooler_output
        shown = reference.get_text_features(**theirs(ids)).pooler_output
    assert difference(model.get_text_features(**ours(ids)), right) <= EMBEDDING
    ones = ids | {"attention_mask": np.ones_like(ids["input_ids"])}
    assert difference(model.get_text_features(**ours(ones)), shown) <= EMBEDDING
    assert float((right - shown).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_other_sizes(kind: str, tmp_path: Path) -> None:
    reference = make(kind, audio=OTHER, projection_hidden_act="gelu")
    model = through_convert(reference, tmp_path)
    for frames in (128, 127, 40, 2):
        batch = texts() | sounds(kind, frames, 32)
        options = {"return_loss": True, **EVERYTHING}
        compare_joint(model(**ours(batch), **options), run(reference, batch, **options), 3)
    with pytest.raises(InputError, match="129"):
        model(**ours(sounds(kind, 129, 32)))


@pytest.mark.parametrize("frames", [1024, 1000, 500, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_other_lengths(kind: str, frames: int, tmp_path: Path) -> None:
    reference = make(kind)
    model = through_convert(reference, tmp_path)
    with torch.no_grad():
        right = reference.get_audio_features(**theirs(sounds(kind, frames))).pooler_output
    assert difference(model.get_audio_features(**ours(sounds(kind, frames))), right) <= EMBEDDING


def test_which_clips_were_cut(tmp_path: Path) -> None:
    reference = make("fused")
    model = through_convert(reference, tmp_path)
    for row in range(8):
        flags = np.array([[bool(row >> i & 1)] for i in range(3)])
        given = sounds("fused") | {"is_longer": flags}
        with torch.no_grad():
            right = reference.get_audio_features(**theirs(given)).pooler_output
        assert difference(model.get_audio_features(**ours(given)), right) <= EMBEDDING


def test_loss_of_fewer_texts_is_refused(tmp_path: Path) -> None:
    model = through_convert(make("unfused"), tmp_path)
    short = {name: value[:2] for name, value in texts().items()}
    with pytest.raises(InputError):
        model(**ours(short | sounds("unfused")), return_loss=True)
    assert model(**ours(short | sounds("unfused"))).logits_per_audio.shape == (3, 2)


# --- one tower --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefixed", [False, True], ids=["bare names", "prefixed names"])
@pytest.mark.parametrize("name", ["TextModel", "AudioModel"])
@pytest.mark.parametrize("kind", KINDS)
def test_single_tower(kind: str, name: str, prefixed: bool, tmp_path: Path) -> None:
    reference = make(kind, name)
    source = save(reference, tmp_path / "source")
    tower = "text_model" if name == "TextModel" else "audio_model"
    if prefixed:
        file = source / "model.safetensors"
        save_file({f"{tower}.{n}": x for n, x in load_file(file).items()}, file, metadata={"format": "pt"})
    mlx_mm.convert(source, tmp_path / "converted", bits=None)
    batch = texts() if name == "TextModel" else sounds(kind)
    right = run(reference, batch, **EVERYTHING)
    for folder in ("source", "converted"):
        model, _ = mlx_mm.load(tmp_path / folder)
        for called in (model, getattr(model, tower)):
            compare_tower(called(**ours(batch), **EVERYTHING), right, 3 if name == "TextModel" else 2)
        features = model.get_text_features if name == "TextModel" else model.get_audio_features
        assert difference(features(**ours(batch)), right.pooler_output) <= STATE


@pytest.mark.parametrize("name", ["TextModelWithProjection", "AudioModelWithProjection"])
@pytest.mark.parametrize("kind", KINDS)
def test_tower_with_projection(kind: str, name: str, tmp_path: Path) -> None:
    """Not normalised, on either side."""
    reference = make(kind, name)
    through_convert(reference, tmp_path)
    text = name.startswith("Text")
    batch = texts() if text else sounds(kind)
    right = run(reference, batch, **EVERYTHING)
    projected = right.text_embeds if text else right.audio_embeds
    for folder in ("source", "converted"):
        model, _ = mlx_mm.load(tmp_path / folder)
        features = model.get_text_features if text else model.get_audio_features
        assert difference(features(**ours(batch)), projected) <= STATE
        out = model(**ours(batch), **EVERYTHING)
        assert difference(out.text_embeds if text else out.audio_embeds, projected) <= STATE
        compare_tower(out, right, 3 if text else 2)


@pytest.mark.parametrize("name", ["TextModel", "AudioModel", "TextModelWithProjection", "AudioModelWithProjection"])
def test_tower_out_of_a_joint_checkpoint(name: str, tmp_path: Path) -> None:
    """Where transformers 5.23 itself loads no tensor of the first two."""
    joint = make("fused")
    source = save(joint, tmp_path / "source")
    section = "text_config" if name.startswith("Text") else "audio_config"
    config = json.loads((source / "config.json").read_text("utf-8"))
    config = {**config[section], "architectures": [f"Clap{name}"], "projection_dim": 96}
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    mlx_mm.convert(source, tmp_path / "converted", bits=None)
    text = name.startswith("Text")
    batch = texts() if text else sounds("fused")
    right = run(joint.text_model if text else joint.audio_model, batch).pooler_output
    if "Projection" in name:
        with torch.no_grad():
            right = (joint.text_projection if text else joint.audio_projection).double()(right)
    for folder in ("source", "converted"):
        model, _ = mlx_mm.load(tmp_path / folder)
        features = model.get_text_features if text else model.get_audio_features
        assert difference(features(**ours(batch)), right) <= STATE


# --- files of other precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_files(kind: str, tmp_path: Path) -> None:
    """bfloat16 on disk, float32 arithmetic: as exact as the stored numbers."""
    reference = make(kind).to(torch.bfloat16)
    source = save(reference, tmp_path / "source")
    mlx_mm.convert(source, tmp_path / "converted", bits=None)
    model, _ = mlx_mm.load(tmp_path / "converted", dtype="float32")
    batch = texts() | sounds(kind)
    got, right = model(**ours(batch)), run(reference, batch)
    assert difference(got.text_embeds, right.text_embeds) <= EMBEDDING
    assert difference(got.audio_embeds, right.audio_embeds) <= EMBEDDING


def test_shards_as_transformers_writes_them(tmp_path: Path) -> None:
    reference = make("fused")
    reference.save_pretrained(tmp_path / "source", max_shard_size="500KB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 1
    write_clap_side_files(tmp_path / "source", json.loads((tmp_path / "source/config.json").read_text()))
    mlx_mm.convert(tmp_path / "source", tmp_path / "converted", bits=None)
    batch = texts() | sounds("fused")
    got = mlx_mm.load(tmp_path / "converted")[0](**ours(batch))
    assert difference(got.logits_per_text, run(reference, batch).logits_per_text) <= LOGIT


# Lowest cosine to the float vectors; random weights, trained ones are closer.
COSINE = {4: 0.95, 8: 0.9995}


@pytest.mark.usefixtures("exact_inputs")
@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_quantised(kind: str, bits: int, group_size: int, tmp_path: Path) -> None:
    """Near the float model, and equal to it once its matrices are rounded in the same way."""
    reference = make(kind)
    source = save(reference, tmp_path / "source")
    report = mlx_mm.convert(source, tmp_path / "converted", bits=bits, group_size=group_size, dtype="float32")
    model, _ = mlx_mm.load(tmp_path / "converted")
    batch = texts() | sounds(kind)
    options = {"return_loss": True, **EVERYTHING}
    got, right = model(**ours(batch), **options), run(reference, batch)
    for name in ("text_embeds", "audio_embeds"):
        cosine = (np.array(getattr(got, name)) * getattr(right, name).numpy()).sum(-1)
        assert cosine.min() > COSINE[bits], name

    quantised = {choice.path: choice.scheme for choice in report.choices if choice.scheme is not None}
    kept = {choice.path for choice in report.choices if choice.scheme is None and "width" not in choice.reason}
    assert all("patch_embed" in path or path.endswith(("position_embedding", "type_embedding")) for path in kept)
    for name, parameter in reference.named_parameters():
        renamed = next(iter(model.sanitize({name: mx.zeros(tuple(parameter.shape))})))
        if scheme := quantised.get(renamed.removesuffix(".weight")):
            rounded = requantised(parameter.detach().numpy(), bits, scheme.group_size)
            parameter.data = torch.from_numpy(rounded.copy())
    compare_joint(got, run(reference, batch, **options))


# --- full size --------------------------------------------------------------------------------------------------


def test_full_size_audio_tower(tmp_path: Path) -> None:
    """clap-htsat-fused's, as transformers itself computes it."""
    config = transformers.ClapAudioConfig(enable_fusion=True)
    reference = randomise(transformers.ClapAudioModelWithProjection(config))
    model = through_convert(reference, tmp_path)
    batch = sounds("fused")
    right = run(reference, batch, output_hidden_states=True)
    out = model(**ours(batch), output_hidden_states=True)
    unit = right.audio_embeds / right.audio_embeds.norm(dim=-1, keepdim=True)
    got = np.array(out.audio_embeds)
    worst = {"audio_embeds": difference(got / np.linalg.norm(got, axis=-1, keepdims=True), unit)}
    for i, (a, b) in enumerate(zip(out.hidden_states, right.hidden_states, strict=True)):
        worst[f"hidden_states.{i}"] = difference(a, b)
    print("\n" + "\n".join(f"{name}: {x:.1e}" for name, x in worst.items()))
    assert all(x <= (EMBEDDING if name == "audio_embeds" else STATE) for name, x in worst.items()), worst


def test_a_file_that_torch_wrote(tmp_path: Path) -> None:
    """Four of the five repositories have only pytorch_model.bin, with buffers of whole numbers in it."""
    model = make("unfused")
    folder = save(model, tmp_path / "safetensors")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    other = tmp_path / "bin"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = {name: torch.from_numpy(value) for name, value in buffers(config).items()} | model.state_dict()
    torch.save(tensors, other / "pytorch_model.bin")
    for bits in (None, 4):
        options = {"bits": bits} if bits is None else {"bits": bits, "group_size": 32}
        mlx_mm.convert(folder, tmp_path / f"a{bits}", **options)
        mlx_mm.convert(other, tmp_path / f"b{bits}", **options)
        a, b = (tmp_path / f"{name}{bits}" / "model.safetensors" for name in "ab")
        assert a.read_bytes() == b.read_bytes()
    direct, converted = mlx_mm.load(other)[0], mlx_mm.load(tmp_path / "bNone")[0]
    features = mx.random.normal((2, 1, 1001, 64), key=mx.random.key(0))
    assert np.array_equal(*(np.array(m.get_audio_features(features)) for m in (direct, converted)))
