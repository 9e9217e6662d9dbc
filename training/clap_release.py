"""Write the trained CLAP model as a Hugging Face folder: float16 weights, explicit configs, tokenizer."""

from pathlib import Path

import torch
from clap_towers import FEATURES, TEXT_LENGTH
from release import write_json
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import ClapModel

TEXT_KEYS = (
    *("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings"),
    *("type_vocab_size", "layer_norm_eps", "projection_dim", "projection_hidden_act", "pad_token_id"),
    *("bos_token_id", "eos_token_id"),
)
AUDIO_KEYS = (
    *("model_type", "num_mel_bins", "spec_size", "patch_size", "patch_stride", "window_size", "depths"),
    *("num_attention_heads", "num_hidden_layers", "hidden_size", "patch_embeds_hidden_size", "mlp_ratio", "qkv_bias"),
    *("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "enable_fusion", "fusion_type"),
    *("layer_norm_eps", "projection_dim", "projection_hidden_act"),
)


def write_folder(model: ClapModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Everything a loader reads. All sizes are explicit, also those that equal a class default."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: (tensor.to(torch.float16) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the writer makes it private
    text, audio = model.config.text_config.to_dict(), model.config.audio_config.to_dict()
    config = {
        "architectures": ["ClapModel"],
        "model_type": "clap",
        "dtype": "float16",
        "projection_dim": model.config.projection_dim,
        "projection_hidden_act": model.config.projection_hidden_act,
        "logit_scale_init_value": model.config.logit_scale_init_value,
        "text_config": {key: text[key] for key in TEXT_KEYS},
        "audio_config": {key: audio[key] for key in AUDIO_KEYS},
    }
    write_json(folder / "config.json", config)
    feature_extractor = {"feature_extractor_type": "ClapFeatureExtractor", "processor_class": "ClapProcessor"}
    write_json(folder / "preprocessor_config.json", {**feature_extractor, **FEATURES})
    write_json(folder / "tokenizer_config.json", TOKENIZER)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


TOKENIZER = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
    "model_max_length": TEXT_LENGTH,
    "pad_token": "<pad>",
    "padding_side": "right",
    "sep_token": "</s>",
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": "<unk>",
}
