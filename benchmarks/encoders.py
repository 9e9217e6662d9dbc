"""Images and texts per second of a checkpoint in float32: mlx_mm against transformers + torch.

    python benchmarks/encoders.py [--checkpoint FOLDER [--converted FOLDER]] [--batch 8 1] [--runs 7] [--settle 0.3]

Without a checkpoint: a SigLIP ViT-B/16 vision tower with random weights. With one: both towers of that Hugging Face
folder; mlx_mm takes the converted one in its place, if there is one. Texts are 16 random tokens long.

Each side runs in its own process, so that their thread pools do not meet, and the two take turns: the other
load of the machine then falls on both. The weights are random; the outputs are compared.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

VARIABLES = (
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
    *("MLX_MM_BLAS", "GLIBC_TUNABLES"),
)


def write_checkpoint(folder: Path) -> None:
    """A ViT-B/16 with random weights, as transformers saves it, and the processor file that `load` wants."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig()).save_pretrained(folder)
    settings = {"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def serve(side: str, folder: Path, out: Path) -> None:
    """A worker: read a kind and a batch size per line, answer with one forward pass's seconds: wall, processor."""
    forward = {"mlx_mm": mlx_forward, "torch": torch_forward}[side](folder)
    config = json.loads((folder / "config.json").read_text())
    print("ready", flush=True)
    for line in sys.stdin:
        kind, batch = line.split()
        values = make_batch(config, kind, int(batch))
        start = time.perf_counter(), time.process_time()
        vectors = forward(kind, values)
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
        np.save(out / f"{side}.npy", vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
        print(*taken, flush=True)


def make_batch(config: dict, kind: str, count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    if kind == "text":
        text = config["text_config"]
        ids = random.integers(3, text["vocab_size"], (count, 16))
        ids[:, -1] = text.get("eos_token_id", 1)
        return ids
    size = config.get("vision_config", config).get("image_size", 224)
    return random.uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def mlx_forward(folder: Path):
    import mlx.core as mx

    from mlx_mm import load
    from mlx_mm.layers.device import run_in_parts  # what encode_image and encode_text call

    model, _ = load(folder)

    def forward(kind: str, values: np.ndarray) -> np.ndarray:
        if kind == "text":
            batch = {"input_ids": mx.array(values.astype(np.int32))}
            return np.array(run_in_parts(model.get_text_features, batch, model))
        return np.array(run_in_parts(model.get_image_features, {"pixel_values": mx.array(values)}, model))

    return forward


def torch_forward(folder: Path):
    sys.modules["torchvision"] = None  # not needed, and in the way where it does not fit the torch
    import torch
    from transformers import AutoModel

    torch.set_num_threads(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()

    def forward(kind: str, values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            if kind == "text":
                return model.get_text_features(input_ids=torch.from_numpy(values)).pooler_output.numpy()
            pixels = torch.from_numpy(values.transpose(0, 3, 1, 2).copy())
            run = getattr(model, "get_image_features", model)
            return run(pixel_values=pixels).pooler_output.numpy()

    return forward


class Worker:
    """The other end of `serve`."""

    def __init__(self, side: str, folder: Path, out: Path) -> None:
        command = [sys.executable, __file__, "--serve", side, "--checkpoint", str(folder), "--out", str(out)]
        environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"the {side} worker did not start")

    def seconds(self, kind: str, batch: int) -> tuple[float, float]:
        print(kind, batch, file=self.process.stdin, flush=True)
        wall, processor = self.process.stdout.readline().split()
        return float(wall), float(processor)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(workers: dict[str, Worker], kind: str, out: Path, arguments: argparse.Namespace) -> None:
    print(f"| {kind}s, batch | mlx_mm {kind}s/s | torch {kind}s/s | ratio (range) | ratio of CPU time | difference |")
    print("|---|---|---|---|---|---|", flush=True)
    for batch in arguments.batch:
        rounds = []
        for _ in range(arguments.runs + 1):
            taken = []
            for worker in workers.values():
                time.sleep(arguments.settle)  # idle threads of the other side spin for a while
                taken.append(worker.seconds(kind, batch))
            rounds.append(taken)
        rounds = rounds[1:]  # the first one warms up
        ours, theirs = (batch / statistics.median(pair[side][0] for pair in rounds) for side in (0, 1))
        ratios = sorted(theirs[0] / ours[0] for ours, theirs in rounds)
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})"
        processor = statistics.median(theirs[1] / ours[1] for ours, theirs in rounds)
        difference = np.abs(np.load(out / "mlx_mm.npy") - np.load(out / "torch.npy")).max()
        print(f"| {batch} | {ours:.2f} | {theirs:.2f} | {spread} | {processor:.2f} | {difference:.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a Hugging Face folder (default: a random ViT-B/16)")
    parser.add_argument("--converted", type=Path, help="the same, converted, for mlx_mm")
    parser.add_argument("--kinds", nargs="+", default=["image", "text"], choices=["image", "text"])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 1], help="batch sizes (default: 8 1)")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each side (default: 7)")
    parser.add_argument("--settle", type=float, default=0.3, help="pause before a run, in seconds (default: 0.3)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.checkpoint, arguments.out)
        return
    names = ("mlx", "torch", "transformers", "scipy-openblas32")
    print("Versions:", ", ".join(f"{name} {metadata.version(name)}" for name in names))
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    print(f"Machine: {platform.machine()}, {cpus} CPUs, load {os.getloadavg()[0]:.1f}")
    print("Environment:", ", ".join(f"{name}={os.environ.get(name, 'not set')}" for name in VARIABLES), end="\n\n")
    with tempfile.TemporaryDirectory() as temporary:
        out, source = Path(temporary), arguments.checkpoint
        if source is None:
            source = out
            write_checkpoint(source)
        folders = {"mlx_mm": arguments.converted or source, "torch": source}
        workers = {side: Worker(side, folder, out) for side, folder in folders.items()}
        for kind in ["image"] if arguments.checkpoint is None else arguments.kinds:
            compare(workers, kind, out, arguments)
            print()
        for worker in workers.values():
            worker.stop()


if __name__ == "__main__":
    main()
