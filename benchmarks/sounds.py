"""Sounds per second of CLAP: log-mel alone and the way from samples to vectors, mlx_mm against transformers + torch.

    python benchmarks/sounds.py [--batch 8 1] [--runs 7] [--settle 0.3]

Sounds of 10 s at 48 kHz, noise and a sweep; the model has the size of laion/clap-htsat-unfused and random weights.
"""

import argparse
import functools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import turns

SETTINGS = {"sampling_rate": 48000, "frequency_min": 50, "frequency_max": 14000, "truncation": "rand_trunc"}


def write_checkpoint(folder: Path) -> None:
    """A model as transformers saves it, the feature extractor's file, and no tokenizer."""
    import torch
    from transformers import ClapConfig, ClapModel

    torch.manual_seed(0)
    ClapModel(ClapConfig()).eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS))


def sounds(count: int) -> list[np.ndarray]:
    random, time = np.random.default_rng(0), np.arange(480000) / 48000
    sweep = np.sin(2 * np.pi * (100 + 300 * time) * time)
    return [(0.4 * sweep + 0.05 * random.standard_normal(480000)).astype(np.float32) for _ in range(count)]


def ours(folder: Path, kind: str, count: int):
    import mlx_mm

    clips = [(samples, 48000) for samples in sounds(count)]
    model, processor = loaded(mlx_mm.load, folder)
    if kind == "log-mel":
        return lambda: processor.audio(clips)["input_features"][:, 0]
    return lambda: mlx_mm.encode_audio(model, processor, clips, batch_size=count)


def theirs(folder: Path, kind: str, count: int):
    sys.modules["torchvision"] = None  # not needed, and in the way where it does not fit the torch
    import torch
    from transformers import ClapFeatureExtractor, ClapModel

    torch.set_num_threads(turns.cpus())
    clips = sounds(count)
    extractor = ClapFeatureExtractor(**SETTINGS)

    def features() -> np.ndarray:
        return np.asarray(extractor(clips, sampling_rate=48000, return_tensors="np")["input_features"])

    if kind == "log-mel":
        return lambda: features()[:, 0]
    model = loaded(ClapModel.from_pretrained, folder).eval()

    def vectors() -> np.ndarray:
        with torch.inference_mode():
            return model.get_audio_features(input_features=torch.from_numpy(features())).pooler_output.numpy()

    return vectors


@functools.cache
def loaded(load, folder: Path):
    return load(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 1], help="sounds at a time (default: 8 1)")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each side (default: 7)")
    parser.add_argument("--settle", type=float, default=0.3, help="pause before a run, in seconds (default: 0.3)")
    parser.add_argument("--serve", choices=["mlx_mm", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        side = {"mlx_mm": ours, "torch": theirs}[arguments.serve]
        turns.serve(functools.partial(side, arguments.checkpoint), arguments.out)
        return
    turns.describe_machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_checkpoint(folder)
        workers = []
        for side in ("mlx_mm", "torch"):
            target = folder / f"{side}.npy"
            command = [__file__, "--serve", side, "--checkpoint", str(folder), "--out", str(target)]
            workers.append(turns.Worker(command, target))
        for kind in ("log-mel", "sound"):
            turns.compare(*workers, kind, arguments.batch, arguments.runs, arguments.settle)
        for worker in workers:
            worker.stop()


if __name__ == "__main__":
    main()
