"""Images and texts per second of a checkpoint in float32: mlx_mm against transformers + torch.

    python benchmarks/encoders.py [--checkpoint FOLDER [--converted FOLDER]] [--tokens 16] [--batch 8 1] [--runs 7]

Without a checkpoint: a SigLIP ViT-B/16 vision tower with random weights. With one: both towers of that Hugging Face
folder; mlx_mm takes the converted one in its place, if there is one. Texts are `--tokens` random tokens long. Jina
CLIP v2, which transformers does not run, is put together from transformers' and timm's towers (pip install timm).
"""

import argparse
import functools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import turns


def write_checkpoint(folder: Path) -> None:
    """A ViT-B/16 with random weights, as transformers saves it, and the processor file that `load` wants."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig()).save_pretrained(folder)
    settings = {"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def make_batch(config: dict, kind: str, count: int, tokens: int) -> np.ndarray:
    random = np.random.default_rng(0)
    if kind == "text":
        text = config["text_config"]
        text = {**text, **text.get("hf_model_config_kwargs", {})}
        ids = random.integers(3, text.get("vocab_size", 250002), (count, tokens))
        ids[:, -1] = text.get("eos_token_id", 2)
        return ids
    size = config.get("vision_config", config).get("image_size", 224)
    return random.uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def mlx_forward(folder: Path):
    import mlx.core as mx

    from mlx_mm import load
    from mlx_mm.backend.parts import run_in_parts  # what encode_image and encode_text call

    model, _ = load(folder)

    def forward(kind: str, values: np.ndarray) -> np.ndarray:
        if kind == "text":
            batch = {"input_ids": mx.array(values.astype(np.int32))}
            return np.array(run_in_parts(model.get_text_features, batch, model))
        return np.array(run_in_parts(model.get_image_features, {"pixel_values": mx.array(values)}, model))

    return forward


def torch_forward(folder: Path, dtype=None):
    """dtype: of torch; None for float32."""
    sys.modules["torchvision"] = None  # not needed, and in the way where it does not fit the torch
    import torch
    from transformers import AutoModel

    torch.set_num_threads(turns.cpus())
    if json.loads((folder / "config.json").read_text())["model_type"] == "jina_clip":
        return jina_forward(folder)
    dtype = dtype or torch.float32
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype).eval()

    def forward(kind: str, values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            if kind == "text":
                return model.get_text_features(input_ids=torch.from_numpy(values)).pooler_output.numpy()
            pixels = torch.from_numpy(values.transpose(0, 3, 1, 2).copy()).to(dtype)
            run = getattr(model, "get_image_features", model)
            return run(pixel_values=pixels).pooler_output.float().numpy()

    return forward


def jina_forward(folder: Path):
    """The towers that the reference tests compare with; texts are pooled here."""
    tests = Path(__file__).parents[1] / "tests"
    sys.path += [str(tests), str(tests / "reference")]
    import torch
    from jina_torch import make_reference
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    sizes = {"vocab_size": 250002, "hidden_size": 1024, "intermediate_size": 4096}
    sizes |= {"num_hidden_layers": 24, "num_attention_heads": 16}
    config["text_config"]["hf_model_config_kwargs"] = sizes | config["text_config"]["hf_model_config_kwargs"]
    reference = make_reference(config, load_file(folder / "model.safetensors"), visible=False)

    def forward(kind: str, values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            if kind == "text":
                ids = torch.from_numpy(values)
                return reference.text(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1).numpy()
            return reference.vision(torch.from_numpy(values.transpose(0, 3, 1, 2).copy())).numpy()

    return forward


def run(forward, config: dict, tokens: int, kind: str, count: int):
    values = make_batch(config, kind, count, tokens)

    def unit_vectors() -> np.ndarray:
        vectors = forward(kind, values)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    return unit_vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a Hugging Face folder (default: a random ViT-B/16)")
    parser.add_argument("--converted", type=Path, help="the same, converted, for mlx_mm")
    parser.add_argument("--kinds", nargs="+", default=["image", "text"], choices=["image", "text"])
    parser.add_argument("--tokens", type=int, default=16, help="of each text (default: 16)")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 1], help="batch sizes (default: 8 1)")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each side (default: 7)")
    parser.add_argument("--settle", type=float, default=0.3, help="pause before a run, in seconds (default: 0.3)")
    parser.add_argument("--serve", choices=["mlx_mm", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        config = json.loads((arguments.checkpoint / "config.json").read_text())
        forward = {"mlx_mm": mlx_forward, "torch": torch_forward}[arguments.serve](arguments.checkpoint)
        turns.serve(functools.partial(run, forward, config, arguments.tokens), arguments.out)
        return
    turns.describe_machine()
    with tempfile.TemporaryDirectory() as temporary:
        out, source = Path(temporary), arguments.checkpoint
        if source is None:
            source = out
            write_checkpoint(source)
        workers = []
        for side, folder in {"mlx_mm": arguments.converted or source, "torch": source}.items():
            target = out / f"{side}.npy"
            command = [__file__, "--serve", side, "--checkpoint", str(folder), "--out", str(target)]
            command += ["--tokens", str(arguments.tokens)]
            workers.append(turns.Worker(command, target))
        for kind in ["image"] if arguments.checkpoint is None else arguments.kinds:
            turns.compare(*workers, kind, arguments.batch, arguments.runs, arguments.settle)
        for worker in workers:
            worker.stop()


if __name__ == "__main__":
    main()
