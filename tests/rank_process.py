"""What each of several processes does with a checkpoint: logits, and greedy answers of rank 0 that the others follow.

    python rank_process.py FOLDER OUT.npz [MEMORY …]

Started alone it does the same with a whole model. MEMORY: of each rank, by which layers are divided, and no widths.
"""

from __future__ import annotations

import sys
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

import mlx_mm
from mlx_mm.backend import ranks
from mlx_mm.backend.streams import compute
from mlx_mm.generation.following import dismiss, follow
from mlx_mm.processing import sandbox

STEPS = 5
sandbox.MAX_SECONDS = 60  # a template's: ranks wait by spinning, and there may be more of them than processors


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 255, shape, dtype=np.uint8)


PICTURES = [Image.fromarray(noise(seed, 84, 56 * (seed + 1), 3)) for seed in range(2)]
MEDIA: dict[str, dict[str, Any]] = {
    "text": {},
    "pictures": {"images": PICTURES},
    "video": {"videos": [noise(9, 8, 56, 84, 3)], "fps": 2.0},
}


def main(folder: str, out: str, *memory: str) -> None:
    group = ranks.join(60) if ranks.is_launched() else None
    model, processor = mlx_mm.load(folder, group=group, pipeline=[*map(int, memory)] if group and memory else False)
    results: dict[str, Any] = {}
    messages = [{"role": "user", "content": "What is this?"}]
    for name, media in MEDIA.items():
        batch = processor.chat(messages, **media)  # type: ignore[union-attr]

        def logits(batch: Any = batch) -> mx.array:
            found = model.request(batch)(mx.array(batch["input_ids"]), None, all_logits=True)  # type: ignore
            mx.eval(found)
            return found

        results[name] = np.array(compute(logits))
    if group is not None and group.rank():
        follow(model)  # type: ignore[arg-type]
        return
    for name, media in MEDIA.items():
        pieces = mlx_mm.stream_generate(model, processor, messages, temperature=0, max_tokens=STEPS, **media)
        results[f"{name} said"] = np.array("".join(piece.raw for piece in pieces))
    short = mlx_mm.generate(model, processor, messages, temperature=0, max_tokens=2, prefill_step_size=7)
    results["in pieces"] = np.array(short.raw)
    if group is not None:
        dismiss(model)  # type: ignore[arg-type]
    np.savez(out, allow_pickle=False, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
