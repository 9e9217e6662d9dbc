"""The small CLAP model: HTSAT for sounds, a RoBERTa-like tower for texts, one space of 128 numbers."""

import torch
import torch.nn.functional as F
from transformers import ClapConfig, ClapModel

WIDTH = 128  # of the shared space
TEXT_LENGTH = 40  # tokens
VOCABULARY = 3072
# 10 s are 576 frames: three parts of 192 below each other make a picture of 192 × 192, 24 × 24 patches.
FEATURES = {
    "feature_size": 64,
    "sampling_rate": 48_000,
    "hop_length": 834,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "frequency_min": 50,
    "frequency_max": 14_000,
    "truncation": "rand_trunc",
    "padding": "repeatpad",
}
FRAMES = 576


def build_model() -> ClapModel:
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": TEXT_LENGTH + 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "projection_dim": WIDTH,
    }
    audio = {
        "num_mel_bins": FEATURES["feature_size"],
        "spec_size": 192,
        "patch_size": 8,
        "patch_stride": [8, 8],
        "window_size": 6,
        "patch_embeds_hidden_size": 64,
        "hidden_size": 256,
        "depths": [2, 2, 2],
        "num_attention_heads": [2, 4, 8],
        "num_hidden_layers": 3,
        "hidden_dropout_prob": 0.0,
        "enable_fusion": False,
        "projection_dim": WIDTH,
    }
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=WIDTH, attn_implementation="eager")
    return ClapModel(config)


def text_vectors(model: ClapModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    pooled = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


def audio_vectors(model: ClapModel, features: torch.Tensor) -> torch.Tensor:
    """Features (B, FRAMES, 64) in dB -> (B, WIDTH)."""
    pooled = model.audio_model(input_features=features[:, None]).pooler_output
    return F.normalize(model.audio_projection(pooled), dim=-1)


def start_from_statistics(model: ClapModel, features: torch.Tensor) -> None:
    """Batch norm: mean and spread of each mel band. Patches: all their principal components, equally strong."""
    encoder = model.audio_model.audio_encoder
    norm, projection = encoder.batch_norm, encoder.patch_embed.proj
    with torch.no_grad():
        norm.running_mean.copy_(features.mean((0, 1)))
        norm.running_var.copy_(features.var((0, 1)))
        scaled = (features - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
        patches = scaled.unfold(1, 8, 8).unfold(2, 8, 8).reshape(-1, 8, 8).transpose(1, 2).flatten(1)
        mean = patches.mean(0)
        variance, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        mixing = torch.linalg.qr(torch.randn(len(variance), len(variance)))[0]  # so that no channel is special
        weight = mixing @ (directions / (variance + 0.1).sqrt()).T
        projection.weight.copy_(weight.reshape(projection.weight.shape))
        projection.bias.copy_(-weight @ mean)
