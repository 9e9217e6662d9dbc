"""Write the trained model as a Hugging Face folder: float16 weights, explicit configs, tokenizer."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Siglip2Model

PREPROCESSOR = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Siglip2ImageProcessorFast",
    "image_std": [0.5, 0.5, 0.5],
    "max_num_patches": 36,
    "patch_size": 16,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
}


TOWER_KEYS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
)
TEXT_KEYS = (
    *TOWER_KEYS,
    "vocab_size",
    "max_position_embeddings",
    "projection_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
VISION_KEYS = (*TOWER_KEYS, "num_channels", "patch_size", "num_patches", "vision_use_head")


def write_folder(model: Siglip2Model, tokenizer: Tokenizer, folder: Path, text_length: int) -> None:
    """Everything a loader reads. All sizes are explicit, also those that equal a class default."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the writer makes it private
    text, vision = model.config.text_config.to_dict(), model.config.vision_config.to_dict()
    config = {
        "architectures": ["Siglip2Model"],
        "model_type": "siglip2",
        "dtype": "float16",
        "initializer_factor": 1.0,
        "text_config": {key: text[key] for key in TEXT_KEYS},
        "vision_config": {key: vision[key] for key in VISION_KEYS},
    }
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    write_json(folder / "tokenizer_config.json", tokenizer_config(text_length))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def tokenizer_config(text_length: int) -> dict:
    return {
        "add_bos_token": False,
        "add_eos_token": True,
        "bos_token": "<bos>",
        "do_lower_case": True,
        "eos_token": "<eos>",
        "model_input_names": ["input_ids"],
        "model_max_length": text_length,
        "pad_token": "<pad>",
        "padding_side": "right",
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
    }


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
