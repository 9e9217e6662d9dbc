"""Write the trained model as a Hugging Face folder: float16 weights, explicit configs, tokenizer."""

import json
from pathlib import Path

import torch
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


def write_folder(model: Siglip2Model, tokenizer: Tokenizer, folder: Path, text_length: int) -> None:
    """`save_pretrained` alone would omit every value that equals a class default; ours are all written out."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part] = {**getattr(model.config, part).to_dict(), **config[part], "dtype": "float16"}
        config[part].pop("_name_or_path", None)
    write_json(folder / "config.json", {**config, "architectures": ["Siglip2Model"], "dtype": "float16"})
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
