"""Write the chat model as a Hugging Face folder in float16: what GLM-4.6V-Flash's folder has, each size explicit."""

import argparse
import json
from pathlib import Path

import torch
from glm_batches import TEMPLATE
from glm_model import (
    EPS,
    HEAD,
    HEADS,
    KV_HEADS,
    LAYERS,
    MEAN,
    MERGER_MLP,
    MLP,
    PATCH,
    SECTIONS,
    STD,
    TABLE,
    THETA,
    VISION_HEADS,
    VISION_LAYERS,
    VISION_WIDTH,
    WIDTH,
)
from glm_tokenizer import VOCABULARY
from release import write_json
from safetensors.torch import save_file
from tokenizers import Tokenizer

POSITIONS = 2048
# Least and most pixels, so that squares become 112 x 112: of a picture, which counts twice, and of a video, in which
# four to six frames have that size and eight have 84 x 84.
PICTURE_PIXELS = 2 * 84 * 112, 2 * 112 * 112
VIDEO_PIXELS = 2 * 84 * 112, 76_000
STOPS = ("<|endoftext|>", "<|user|>", "<|observation|>")


def config_of(tokenizer: Tokenizer) -> dict:
    ids = {name: tokenizer.token_to_id(name) for name in tokenizer.get_vocab()}
    text = {
        "model_type": "glm4v_text",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "rms_norm_eps": EPS,
        "max_position_embeddings": POSITIONS,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": THETA,
            "partial_rotary_factor": 0.5,
            "mrope_section": list(SECTIONS),
        },
        "eos_token_id": [ids[name] for name in STOPS],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "glm4v_vision",
        "depth": VISION_LAYERS,
        "hidden_size": VISION_WIDTH,
        "num_heads": VISION_HEADS,
        "out_hidden_size": WIDTH,
        "intermediate_size": MERGER_MLP,
        "image_size": TABLE * PATCH,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "in_channels": 3,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "attention_bias": False,
        "attention_dropout": 0.0,
    }
    return {
        "architectures": ["Glm4vForConditionalGeneration"],
        "model_type": "glm4v",
        "dtype": "float16",
        "tie_word_embeddings": False,
        "image_token_id": ids["<|image|>"],
        "video_token_id": ids["<|video|>"],
        "image_start_token_id": ids["<|begin_of_image|>"],
        "image_end_token_id": ids["<|end_of_image|>"],
        "video_start_token_id": ids["<|begin_of_video|>"],
        "video_end_token_id": ids["<|end_of_video|>"],
        "text_config": text,
        "vision_config": vision,
    }


def preprocessor(pixels: tuple[int, int]) -> dict:
    return {
        "processor_class": "Glm46VProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [round(value, 8) for value in MEAN.tolist()],
        "image_std": [round(value, 8) for value in STD.tolist()],
        "merge_size": 2,
        "patch_size": PATCH,
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": pixels[0], "longest_edge": pixels[1]},
        "temporal_patch_size": 2,
    }


def write_folder(weights: dict[str, torch.Tensor], tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in weights.items()}
    name = "model.visual.patch_embed.proj.weight"
    kernel = (weights[name] / 2).view(VISION_WIDTH, 3, 1, PATCH, PATCH)  # half of it for each frame of a pair
    tensors[name] = kernel.expand(-1, -1, 2, -1, -1).to(torch.float16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config = config_of(tokenizer)
    write_json(folder / "config.json", config)
    stops, pad = config["text_config"]["eos_token_id"], config["text_config"]["pad_token_id"]
    write_json(folder / "generation_config.json", {"do_sample": False, "eos_token_id": stops, "pad_token_id": pad})
    image = preprocessor(PICTURE_PIXELS) | {"image_processor_type": "Glm46VImageProcessor"}
    video = preprocessor(VIDEO_PIXELS) | {"video_processor_type": "Glm46VVideoProcessor", "do_sample_frames": True}
    write_json(folder / "preprocessor_config.json", image)
    write_json(folder / "video_preprocessor_config.json", video)
    named = {
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "model_max_length": POSITIONS,
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "processor_class": "Glm46VProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", named)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of emoji_glm4v.py")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.run / "tokenizer.json"))
    write_folder(torch.load(options.run / "average.pt"), tokenizer, options.out)
    print(json.dumps({path.name: path.stat().st_size for path in sorted(options.out.iterdir())}))


if __name__ == "__main__":
    main()
