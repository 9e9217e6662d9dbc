"""Recipes for small CLAP checkpoints, as `tiny` has them for SigLIP, and the weights of CLAP's golden files."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from tiny import Shapes, linear_shapes, norm_shapes, token_rows, write_json
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import RobertaProcessing

# What the hub's files leave out
TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 1,
}
AUDIO_DEFAULTS: dict[str, Any] = {
    "window_size": 8,
    "num_mel_bins": 64,
    "spec_size": 256,
    "hidden_act": "gelu",
    "patch_size": 4,
    "patch_stride": [4, 4],
    "depths": [2, 2, 6, 2],
    "num_attention_heads": [4, 8, 16, 32],
    "enable_fusion": False,
    "patch_embeds_hidden_size": 96,
    "qkv_bias": True,
    "mlp_ratio": 4.0,
    "aff_block_r": 4,
    "layer_norm_eps": 1e-5,
}
LARGER = {"depths": [2, 2, 12, 2], "hidden_size": 1024, "patch_embeds_hidden_size": 128}
ENCODER = "audio_model.audio_encoder"

MERGES = [("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g"), ("Ġ", "a"), ("Ġ", "cat"), ("Ġ", "dog"), ("s", "o")]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def clap_shapes(config: dict[str, Any]) -> Shapes:
    """Names and PyTorch shapes of every tensor of a full model that is not a buffer of whole numbers."""
    text, audio = TEXT_DEFAULTS | config["text_config"], AUDIO_DEFAULTS | config["audio_config"]
    joint = config.get("projection_dim", 512)
    wide, inner = text["hidden_size"], text["intermediate_size"]
    embeddings = "text_model.embeddings"
    shapes: Shapes = [("logit_scale_a", ()), ("logit_scale_t", ())]
    shapes += [
        (f"{embeddings}.word_embeddings.weight", (text["vocab_size"], wide)),
        (f"{embeddings}.position_embeddings.weight", (text["max_position_embeddings"], wide)),
        (f"{embeddings}.token_type_embeddings.weight", (text["type_vocab_size"], wide)),
        *norm_shapes(f"{embeddings}.LayerNorm", wide),
    ]
    for i in range(text["num_hidden_layers"]):
        layer = f"text_model.encoder.layer.{i}"
        shapes += attention_shapes(layer, wide, True, inner)
        shapes += norm_shapes(f"{layer}.attention.output.LayerNorm", wide)
        shapes += norm_shapes(f"{layer}.output.LayerNorm", wide)
    shapes += linear_shapes("text_model.pooler.dense", wide, wide)
    shapes += audio_shapes(audio)
    width = audio["patch_embeds_hidden_size"] * 2 ** (len(audio["depths"]) - 1)
    for name, size in (("text_projection", wide), ("audio_projection", width)):
        shapes += linear_shapes(f"{name}.linear1", joint, size) + linear_shapes(f"{name}.linear2", joint, joint)
    return shapes


def attention_shapes(layer: str, width: int, qkv_bias: bool, inner: int) -> Shapes:
    """Attention and MLP, which have the same names in both towers."""
    shapes: Shapes = []
    for name in ("query", "key", "value"):
        shapes += linear_shapes(f"{layer}.attention.self.{name}", width, width)[: 2 if qkv_bias else 1]
    shapes += linear_shapes(f"{layer}.attention.output.dense", width, width)
    shapes += linear_shapes(f"{layer}.intermediate.dense", inner, width)
    return shapes + linear_shapes(f"{layer}.output.dense", width, inner)


def audio_shapes(audio: dict[str, Any]) -> Shapes:
    """The same for the audio tower."""
    width, patch, window = audio["patch_embeds_hidden_size"], audio["patch_size"], audio["window_size"]
    embed = f"{ENCODER}.patch_embed"
    shapes = batch_norm_shapes(f"{ENCODER}.batch_norm", audio["num_mel_bins"])
    shapes += [(f"{embed}.proj.weight", (width, 1, patch, patch)), (f"{embed}.proj.bias", (width,))]
    shapes += norm_shapes(f"{embed}.norm", width)
    if audio["enable_fusion"]:
        shapes += [(f"{embed}.mel_conv2d.weight", (width, 1, patch, 3 * patch)), (f"{embed}.mel_conv2d.bias", (width,))]
        for kind, first in (("local_att", 0), ("global_att", 1)):
            name, narrow = f"{embed}.fusion_model.{kind}", width // audio["aff_block_r"]
            for place, rows, columns in ((first, narrow, width), (first + 3, width, narrow)):
                shapes += [(f"{name}.{place}.weight", (rows, columns, 1, 1)), (f"{name}.{place}.bias", (rows,))]
                shapes += batch_norm_shapes(f"{name}.{place + 1}", rows)
    for i, (depth, heads) in enumerate(zip(audio["depths"], audio["num_attention_heads"], strict=True)):
        for j in range(depth):
            block = f"{ENCODER}.layers.{i}.blocks.{j}"
            shapes += norm_shapes(f"{block}.layernorm_before", width) + norm_shapes(f"{block}.layernorm_after", width)
            shapes += attention_shapes(block, width, audio["qkv_bias"], int(audio["mlp_ratio"] * width))
            table = f"{block}.attention.self.relative_position_bias_table"
            shapes += [(table, ((2 * window - 1) ** 2, heads))]
        if i < len(audio["depths"]) - 1:
            shapes += norm_shapes(f"{ENCODER}.layers.{i}.downsample.norm", 4 * width)
            shapes += [(f"{ENCODER}.layers.{i}.downsample.reduction.weight", (2 * width, 4 * width))]
            width *= 2
    return shapes + norm_shapes(f"{ENCODER}.norm", width)


def batch_norm_shapes(name: str, width: int) -> Shapes:
    return [*norm_shapes(name, width), (f"{name}.running_mean", (width,)), (f"{name}.running_var", (width,))]


def buffers(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """What transformers' files have beside the weights: buffers of whole numbers."""
    window = (AUDIO_DEFAULTS | config["audio_config"])["window_size"]
    out = {}
    for name, _ in clap_shapes(config):
        if name.endswith("running_mean"):
            out[name.replace("running_mean", "num_batches_tracked")] = np.array(0)
        elif name.endswith("relative_position_bias_table"):
            index = np.zeros((window**2, window**2), np.int64)  # of no use to us, so the values do not matter
            out[name.replace("bias_table", "index")] = index
    length = (TEXT_DEFAULTS | config["text_config"])["max_position_embeddings"]
    out["text_model.embeddings.position_ids"] = np.arange(length)[None]
    out["text_model.embeddings.token_type_ids"] = np.zeros((1, length), np.int64)
    return out


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 numbers in [0, 1) of the golden files' hash, see `generator` in clap_golden.json."""
    z = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    z *= np.uint64(0x9E3779B97F4A7C15)
    for right, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(right)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)) / 2.0**24).reshape(shape)


def formula_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor by the rules of clap_golden.json, in the order in which they stand there."""
    if name.startswith("logit_scale"):
        return np.array({"logit_scale_a": 2.5, "logit_scale_t": 3.0}[name], np.float32)
    u = uniform(name, shape)
    s = 2 * u - 1
    if name.endswith("audio_encoder.batch_norm.running_mean"):
        value = -30 + 10 * s
    elif name.endswith("audio_encoder.batch_norm.running_var"):
        value = 200 + 100 * u
    elif name.endswith("running_mean"):
        value = 0.2 * s
    elif name.endswith("running_var"):
        value = 0.5 + u
    elif name.endswith("relative_position_bias_table"):
        value = 0.5 * s
    elif name.endswith(".bias"):
        value = 0.1 * s
    elif len(shape) == 1:
        value = 1 + 0.2 * s
    elif name.endswith("embeddings.weight"):
        value = 0.5 * s
    else:
        value = s * math.sqrt(3 / math.prod(shape[1:]))
    return value.astype(np.float32)


def clap_weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights for a full-model config, by the golden files' formula."""
    return {name: formula_weight(name, shape) for name, shape in clap_shapes(config)}


def spectrograms(clips: int, channels: int, frames: int, mels: int) -> np.ndarray:
    """The golden files' input_features, in decibels."""
    return (-60 + 60 * uniform("input_features", (clips, channels, frames, mels))).astype(np.float32)


def tiny_clap_config(enable_fusion: bool = False) -> dict[str, Any]:
    """`config.json` of a tiny model, with as few keys as the larger checkpoints' files.

    Spectrograms have the released models' size; only the patches are larger. Most widths are divisible by 64.
    """
    audio = {
        "model_type": "clap_audio_model",
        "depths": [2, 2],
        "hidden_size": 128,
        "num_attention_heads": [2, 4],
        "patch_embeds_hidden_size": 64,
        "patch_size": 16,
        "patch_stride": [16, 16],
        "window_size": 4,
    }
    text = {
        "model_type": "clap_text_model",
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 34,
    }
    return {
        "architectures": ["ClapModel"],
        "audio_config": audio | ({"enable_fusion": True, "fusion_type": None} if enable_fusion else {}),
        "hidden_size": 64,
        "initializer_factor": 1.0,
        "logit_scale_init_value": 14.285714285714285,
        "model_type": "clap",
        "num_hidden_layers": 4,
        "projection_dim": 96,
        "projection_hidden_act": "relu",
        "text_config": text,
        "torch_dtype": "float32",
        "transformers_version": "4.27.0.dev0",
    }


def tiny_clap_batch(config: dict[str, Any], frames: int = 1001) -> dict[str, np.ndarray]:
    """Three texts (padded, full, padded) and three clips, of which the second and third were cut."""
    text = TEXT_DEFAULTS | config["text_config"]
    length = text["max_position_embeddings"] - 2
    ids = token_rows((5, length, 9), length, text["vocab_size"], first=4, seed=90)
    batch = {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int32)}
    fused = config["audio_config"].get("enable_fusion", False)
    mels = (AUDIO_DEFAULTS | config["audio_config"])["num_mel_bins"]
    batch["input_features"] = spectrograms(3, 4 if fused else 1, frames, mels)
    return batch | ({"is_longer": np.array([[False], [True], [True]])} if fused else {})


def clap_preprocessor_config(enable_fusion: bool) -> dict[str, Any]:
    """`preprocessor_config.json` as on the hub, the same in all checkpoints but for `truncation`."""
    return {
        "chunk_length_s": 10,
        "feature_extractor_type": "ClapFeatureExtractor",
        "feature_size": 64,
        "fft_window_size": 1024,
        "frequency_max": 14000,
        "frequency_min": 50,
        "hop_length": 480,
        "max_length_s": 10,
        "n_fft": 1024,
        "nb_frequency_bins": 513,
        "nb_max_frames": 1000,
        "nb_max_samples": 480000,
        "padding": "repeatpad",
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "ClapProcessor",
        "return_attention_mask": False,
        "sampling_rate": 48000,
        "top_db": None,
        "truncation": "fusion" if enable_fusion else "rand_trunc",
    }


CLAP_TOKENIZER_CONFIG = {
    "add_prefix_space": False,
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "errors": "replace",
    "mask_token": "<mask>",
    "model_max_length": 512,
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "tokenizer_class": "RobertaTokenizer",
    "trim_offsets": True,
    "unk_token": "<unk>",
}


def clap_tokenizer() -> Tokenizer:
    """RoBERTa's kind of tokenizer with 269 words: every byte and a few merges."""
    pieces = SPECIAL + sorted(ByteLevel.alphabet()) + [a + b for a, b in MERGES] + ["<mask>"]
    model = BPE({piece: n for n, piece in enumerate(pieces)}, MERGES)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens([*SPECIAL, AddedToken("<mask>", lstrip=True)])
    return tokenizer


def write_clap_side_files(folder: Path, config: dict[str, Any]) -> None:
    """Processor and tokenizer files beside the weights."""
    if config["model_type"] != "clap_text_model":
        audio = config.get("audio_config", config)
        write_json(folder / "preprocessor_config.json", clap_preprocessor_config(audio.get("enable_fusion", False)))
    if config["model_type"] != "clap_audio_model":
        clap_tokenizer().save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", CLAP_TOKENIZER_CONFIG)
