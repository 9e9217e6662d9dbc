"""Ranks on this machine: what becomes of the others when one is killed, and what each reads and holds of a model.

    python benchmarks/ranks.py kills [--times 20]
    python benchmarks/ranks.py memory FOLDER [--layers 4]

kills: two ranks chat; one of them, drawn by chance, is killed, or in one of four stopped as by a machine that falls
silent, at a random moment between the start and the last answer. The other must end with an error within 30 seconds.
memory: FOLDER gets a checkpoint of GLM-4.6V-Flash's shape, with
fewer layers and two blocks of the vision tower (5 GB, kept for the next run), which one process reads and two ranks do.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

LIMIT = 30.0  # seconds
ASKED = 3
QUESTION = "what is this?"
PICTURES = Path(__file__).parents[1] / "mlx_mm" / "bundled" / "pictures"
EXPECTED = ("has ended, or cannot be reached", "do not compute together", "cannot find each other")
EXPECTED += ("cannot reach each other",)


def start(folder: Path, words: list[str], count: int = 2, **streams: object) -> list[subprocess.Popen]:
    """The same command on each rank, whose output goes to files of the folder."""
    from several import environment

    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(folder, rank, count),
            stdout=(folder / f"out{rank}").open("wb"),
            stderr=(folder / f"err{rank}").open("wb"),
            **streams,  # type: ignore[call-overload]
        )
        for rank in range(count)
    ]


def kills(times: int, seed: int) -> None:
    chance, slowest, wrong, number = random.Random(seed), 0.0, 0, 0
    lasts = None
    while number < times:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with (folder / "in").open("w") as questions:
                questions.writelines(f"{QUESTION} {PICTURES / 'cat.png'}\n" for _ in range(ASKED))
            with (folder / "in").open() as given:
                began = time.monotonic()
                running = start(folder, ["-m", "mlx_mm", "chat", "--temperature", "0"], stdin=given)
            if lasts is None:  # the first run is not disturbed
                for process in running:
                    process.wait(300)
                lasts = time.monotonic() - began
                print(f"undisturbed: {lasts:.1f} s, status {[process.returncode for process in running]}", flush=True)
                continue
            moment, victim, stops = chance.uniform(0, lasts), chance.randrange(2), chance.randrange(4) == 0
            time.sleep(max(0.0, moment - (time.monotonic() - began)))
            before = [process.poll() for process in running]
            running[victim].send_signal(signal.SIGSTOP if stops else signal.SIGKILL)
            killed, other = time.monotonic(), running[1 - victim]
            try:
                status: int | None = other.wait(LIMIT + 90)
            except subprocess.TimeoutExpired:
                status = None
            took = time.monotonic() - killed
            for process in running:
                process.kill()
                process.wait()
            said = (folder / f"err{1 - victim}").read_text(errors="replace")
            over = before[victim] is not None or before[1 - victim] is not None
            answered = (folder / "out0").read_text().count("cat") == ASKED  # before it was killed
            if over:
                lasts *= 0.9  # other work on the machine comes and goes
                continue
            number += 1
            good = (status == 0 and answered and took <= LIMIT) or (
                took <= LIMIT and status not in (0, None) and any(text in said for text in EXPECTED)
            )
            wrong += not good
            slowest = max(slowest, took)
            line = next((line for line in said.splitlines() if any(text in line for text in EXPECTED)), said[-200:])
            verdict = "good" if good else "WRONG"
            how = "stopped" if stops else "killed"
            print(
                f"{number:3} rank {victim} {how} after {moment:5.1f} s: {took:4.1f} s, {status}, {verdict}: {line}",
                flush=True,
            )
    print(f"{times} kills, {wrong} wrong, slowest end {slowest:.1f} s, load {os.getloadavg()[0]:.1f}")
    sys.exit(bool(wrong))


def memory(folder: Path, layers: int) -> None:
    import glm

    source = folder / f"flash-{layers}"
    if not (source / "config.json").is_file():
        config = json.loads(json.dumps(glm.CONFIG))
        config["text_config"]["num_hidden_layers"], config["vision_config"]["depth"] = layers, 2
        glm.write(source, config)
    words = [str(Path(__file__)), "one", str(source)]
    alone = json.loads(subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True).stdout)
    with tempfile.TemporaryDirectory() as name:
        running = start(Path(name), words, stdin=subprocess.DEVNULL)
        for process in running:
            process.wait(600)
        found = [json.loads((Path(name) / f"out{rank}").read_text()) for rank in range(len(running))]
    for who, result in (("alone", alone), *((f"rank {rank}", result) for rank, result in enumerate(found))):
        shares = {key: round(value / alone[key], 3) for key, value in result.items()}
        print(f"{who}: {json.dumps(result)}; of one process: {json.dumps(shares)}")


def one(source: Path) -> None:
    """Load it, whole or in part, and read a picture and a short question."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    import mlx_mm
    from mlx_mm.backend import ranks
    from mlx_mm.generation.following import dismiss, follow

    group = ranks.join(60) if ranks.is_launched() else None
    before, base = bytes_read(), mx.get_active_memory()
    model, processor = mlx_mm.load(source, group=group)
    read, arrays = bytes_read() - before, dict(tree_flatten(model.parameters()))
    weights = sum(array.nbytes for array in arrays.values())
    active = mx.get_active_memory() - base
    if group is not None and group.rank():
        follow(model)
    else:
        picture = PICTURES / "cat.png"
        mlx_mm.generate(model, processor, QUESTION, images=picture, max_tokens=2, temperature=0)
        dismiss(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"bytes_read": read, "weights": weights, "mlx_memory": active, "peak_of_process": peak}))


def bytes_read() -> int:
    """That this process asked the system for so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    killing = modes.add_parser("kills")
    killing.add_argument("--times", type=int, default=20)
    killing.add_argument("--seed", type=int, default=0)
    holding = modes.add_parser("memory")
    holding.add_argument("folder", type=Path)
    holding.add_argument("--layers", type=int, default=4)
    modes.add_parser("one").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.mode == "kills":
        kills(arguments.times, arguments.seed)
    elif arguments.mode == "memory":
        memory(arguments.folder, arguments.layers)
    else:
        one(arguments.folder)


if __name__ == "__main__":
    main()
