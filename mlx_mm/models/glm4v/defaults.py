"""How answers of this family end: what its files have said, and what some of them lack."""

from pathlib import Path

from mlx_mm.generation.defaults import GenerationDefaults, read_generation_config
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.response import END_THINK, THINK
from mlx_mm.processing.text import Tokenizer

# Published files of this family have lacked some; without <|user|> a model goes on with a turn of its own.
STOPS = ("<|endoftext|>", "<|user|>", "<|observation|>")

GROUP_SIZES = (64, 32)  # of those that MLX has, mlx_lm's usual one first


def generation_defaults(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> GenerationDefaults:
    """Of a checkpoint's folder, whose generation_config.json may be missing; raises ConfigError."""
    sampling, stop_ids = read_generation_config(folder)
    known = {mark: ids[0] for mark in (*STOPS, THINK, END_THINK) if len(ids := tokenizer.encode_prompt(mark)) == 1}
    text = config.text_config
    return GenerationDefaults(
        sampling=sampling,
        stop_ids=stop_ids.union(config.eos_token_ids, (known[mark] for mark in STOPS if mark in known)),
        think_ids=(known[THINK], known[END_THINK]) if {THINK, END_THINK} <= known.keys() else None,
        context_length=text.max_position_embeddings,
        kv_numbers=2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim,
        kv_group_size=next((size for size in GROUP_SIZES if text.head_dim % size == 0), None),
    )
