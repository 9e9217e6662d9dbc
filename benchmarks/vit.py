"""Images per second of a SigLIP ViT-B/16 vision tower (224 pixels, float32): mlx_mm against transformers + torch.

    python benchmarks/vit.py [--batch 8 1] [--runs 7] [--settle 0.3]

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


def serve(side: str, folder: Path) -> None:
    """A worker: read a batch size per line, answer with one forward pass's seconds: wall, processor."""
    forward = {"mlx_mm": mlx_forward, "torch": torch_forward}[side](folder)
    print("ready", flush=True)
    for line in sys.stdin:
        images = np.random.default_rng(0).uniform(-1, 1, (int(line), 224, 224, 3)).astype(np.float32)
        start = time.perf_counter(), time.process_time()
        pooled = forward(images)
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
        np.save(folder / f"{side}.npy", pooled)
        print(*taken, flush=True)


def mlx_forward(folder: Path):
    import mlx.core as mx

    from mlx_mm import load
    from mlx_mm.layers.device import run_in_parts  # what encode_image calls

    model, _ = load(folder)
    return lambda images: np.array(run_in_parts(model.get_image_features, {"pixel_values": mx.array(images)}, model))


def torch_forward(folder: Path):
    import torch
    from transformers import SiglipVisionModel

    torch.set_num_threads(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())
    model = SiglipVisionModel.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()

    def forward(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).pooler_output.numpy()

    return forward


class Worker:
    """The other end of `serve`."""

    def __init__(self, side: str, folder: Path) -> None:
        command = [sys.executable, __file__, "--serve", side, "--folder", str(folder)]
        environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"the {side} worker did not start")

    def seconds(self, batch: int) -> tuple[float, float]:
        print(batch, file=self.process.stdin, flush=True)
        wall, processor = self.process.stdout.readline().split()
        return float(wall), float(processor)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(folder: Path, batches: list[int], runs: int, settle: float) -> None:
    workers = {side: Worker(side, folder) for side in ("mlx_mm", "torch")}
    print("| batch | mlx_mm images/s | torch images/s | ratio (range) | ratio of CPU time | difference |")
    print("|---|---|---|---|---|---|", flush=True)
    for batch in batches:
        rounds = []
        for _ in range(runs + 1):
            taken = []
            for worker in workers.values():
                time.sleep(settle)  # idle threads of the other side spin for a while
                taken.append(worker.seconds(batch))
            rounds.append(taken)
        rounds = rounds[1:]  # the first one warms up
        ours, theirs = (batch / statistics.median(pair[side][0] for pair in rounds) for side in (0, 1))
        ratios = sorted(theirs[0] / ours[0] for ours, theirs in rounds)
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})"
        processor = statistics.median(theirs[1] / ours[1] for ours, theirs in rounds)
        difference = np.abs(np.load(folder / "mlx_mm.npy") - np.load(folder / "torch.npy")).max()
        print(f"| {batch} | {ours:.2f} | {theirs:.2f} | {spread} | {processor:.2f} | {difference:.1e} |", flush=True)
    for worker in workers.values():
        worker.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 1], help="batch sizes (default: 8 1)")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each side (default: 7)")
    parser.add_argument("--settle", type=float, default=0.3, help="pause before a run, in seconds (default: 0.3)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.folder)
        return
    names = ("mlx", "torch", "transformers", "scipy-openblas32")
    print("Versions:", ", ".join(f"{name} {metadata.version(name)}" for name in names))
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    print(f"Machine: {platform.machine()}, {cpus} CPUs, load {os.getloadavg()[0]:.1f}")
    print("Environment:", ", ".join(f"{name}={os.environ.get(name, 'not set')}" for name in VARIABLES), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        compare(Path(folder), arguments.batch, arguments.runs, arguments.settle)


if __name__ == "__main__":
    main()
