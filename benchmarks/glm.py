"""A GLM-4.6V-Flash-shaped checkpoint with random weights: written, converted to 4 bit, and asked about a picture.

    python benchmarks/glm.py FOLDER [--bits 4] [--recipe NAME] [--tokens 8] [--layers 40]

FOLDER gets `source` (20.6 GB of bfloat16 in shards, kept for the next run) and `converted`. Each stage runs in a
process of its own, so that its peak memory is its own. Needs the repository's tests for the tensors' names.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SHARD_BYTES = 5_000_000_000
BLOCK = 1 << 24  # random numbers are drawn once and used again
CONFIG = {
    "architectures": ["Glm4vForConditionalGeneration"],
    "model_type": "glm4v",
    "image_token_id": 151363,
    "video_token_id": 151364,
    "image_start_token_id": 151339,
    "image_end_token_id": 151340,
    "video_start_token_id": 151341,
    "video_end_token_id": 151342,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "glm4v_text",
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "vocab_size": 151552,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "pad_token_id": 151329,
        "eos_token_id": [151329, 151336, 151338],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 500000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [8, 12, 12],
        },
    },
    "vision_config": {
        "model_type": "glm4v_vision",
        "depth": 24,
        "hidden_size": 1536,
        "num_heads": 12,
        "out_hidden_size": 4096,
        "intermediate_size": 13696,
        "image_size": 336,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "in_channels": 3,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-5,
    },
}


def write(folder: Path, config: dict) -> None:
    """A checkpoint of that config.json, tensor by tensor."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from glm_side_files import write_glm_side_files
    from glm_tiny import glm_shapes

    folder.mkdir(parents=True)
    drawn = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in sorted(glm_shapes(config)):
        if shards[-1] and 2 * sum(np.prod(s, dtype=np.int64) for s in [*shards[-1].values(), shape]) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tuple(shape)
    weight_map = {}
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in shard.items():
            end = offset + 2 * int(np.prod(shape, dtype=np.int64))
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
            weight_map[name] = file
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for name, shape in shard.items():
                f.writelines(blocks(name, shape, drawn))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    write_glm_side_files(folder, config)


def blocks(name: str, shape: tuple[int, ...], drawn: np.ndarray):
    """The bytes of a tensor of bfloat16 whose products stay of the order of one."""
    count = int(np.prod(shape, dtype=np.int64))
    norm = len(shape) == 1 and name.endswith("weight")
    scale = 0.1 if len(shape) == 1 else 1.0 if "embed" in name else float(np.prod(shape[1:])) ** -0.5
    for start in range(0, count, BLOCK):
        values = drawn[: min(BLOCK, count - start)] * np.float32(scale) + np.float32(norm)
        yield (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # cut, not rounded: random anyway


def convert(folder: Path, bits: int, recipe: str | None) -> dict:
    import mlx_mm

    report = mlx_mm.convert(
        folder / "source", folder / "converted", bits=bits, recipe=recipe, overwrite=True, check=False
    )
    return {
        "parameters": report.parameters,
        "source_gb": report.source_bytes / 1e9,
        "converted_gb": report.bytes / 1e9,
        "seconds": report.seconds,
    }


def answer(folder: Path, tokens: int) -> dict:
    """One picture of 448 x 448 pixels and a short question, answered by the likeliest tokens."""
    start = time.perf_counter()
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    import mlx_mm

    model, processor = mlx_mm.load(folder / "converted")
    loaded = time.perf_counter()
    picture = np.random.default_rng(0).integers(0, 255, (448, 448, 3), dtype=np.uint8)
    batch = processor.chat([{"role": "user", "content": "What is this?"}], images=[picture])
    arrays = mlx_mm.to_mlx(batch)
    prepared = time.perf_counter()
    mx.eval(model.get_image_features(arrays["pixel_values"], arrays["image_grid_thw"]))
    seen = time.perf_counter()
    request = model.request(batch)
    times, found = [], []
    for token, _ in generate_step(arrays["input_ids"][0], request, max_tokens=tokens):
        found.append(token)
        times.append(time.perf_counter())
    return {
        "prompt_tokens": batch["input_ids"].shape[1],
        "load_seconds": loaded - start,
        "prepare_seconds": prepared - loaded,
        "vision_seconds": seen - prepared,
        "vision_and_prefill_seconds": times[0] - seen,
        "seconds_per_token": (times[-1] - times[0]) / max(len(times) - 1, 1),
        "tokens": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--recipe", help="default: the family's, which leaves the vision tower in 16 bit")
    parser.add_argument("--tokens", type=int, default=8, help="to generate (default: 8)")
    parser.add_argument("--layers", type=int, default=40, help="of the text model (default: 40, the real number)")
    parser.add_argument("--stage", choices=["write", "convert", "answer"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.stage is None:
        done = (folder / "source" / "config.json").is_file()
        for stage in ["convert", "answer"] if done else ["write", "convert", "answer"]:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--stage", stage], check=True)
        return
    start = time.perf_counter()
    if arguments.stage == "write":
        config = json.loads(json.dumps(CONFIG))
        config["text_config"]["num_hidden_layers"] = arguments.layers
        write(folder / "source", config)
        result = {"seconds": time.perf_counter() - start}
    elif arguments.stage == "convert":
        result = convert(folder, arguments.bits, arguments.recipe)
    else:
        result = answer(folder, arguments.tokens)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"stage": arguments.stage, **result, "peak_memory_gb": peak / 1e9}, indent=2), flush=True)


if __name__ == "__main__":
    main()
