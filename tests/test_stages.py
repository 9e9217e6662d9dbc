"""A model divided by layers, one run of them for each of several processes, against the same model in one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import LONG
from glm_side_files import write_glm_side_files
from glm_tiny import DENSE, MOE, glm_config, glm_weights
from several import HERE, chat_without, environment, run_all
from tiny import write_checkpoint

import mlx_mm
from mlx_mm.checkpoint import reading
from mlx_mm.errors import InputError, UnsupportedModelError
from mlx_mm.load import OpenCheckpoint, open_checkpoint

LAYERS = 4
GROUP = 32


def write(folder: Path, kind: str) -> Path:
    config = glm_config(kind)
    config["text_config"] |= {"num_hidden_layers": LAYERS}
    return write_checkpoint(folder, config, glm_weights(config), side_files=write_glm_side_files)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by name, of four layers."""
    root = tmp_path_factory.mktemp("models")
    return {name: write(root / name, kind) for name, kind in (("dense", DENSE), ("moe", MOE))}


def sizes(opened: OpenCheckpoint) -> dict[str, int]:
    return opened.parameter_bytes(())


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_stages_have_all_of_a_model_once(folders: dict[str, Path], name: str) -> None:
    opened, whole = open_checkpoint(folders[name]), reading.Checkpoint(folders[name]).arrays
    seen: list[str] = []
    for stage in opened.stages([1, 1, 1], sizes(opened)):
        found = reading.Checkpoint(folders[name], stage.part).arrays
        assert all(found[tensor].shape == whole[tensor].shape for tensor in found)
        seen += found
    norm = "model.language_model.norm.weight"  # which all have
    assert sorted([*whole, norm, norm]) == sorted(seen)


def test_layers_follow_the_memory(folders: dict[str, Path]) -> None:
    opened = open_checkpoint(folders["dense"])
    layers = [f"language_model.model.layers.{number}.weight" for number in range(LAYERS)]
    known = dict.fromkeys(layers, 10) | {"vision_tower.weight": 4, "language_model.lm_head.weight": 6}

    def shared(*memory: int) -> list[str]:
        return [stage.described["layers"].split()[0] for stage in opened.stages(memory, known)]

    assert shared(1, 1) == ["1", "3"]  # beside the tower and the head
    assert shared(2, 1) == ["3", "1"]
    assert shared(64, 8) == ["3", "1"]
    assert shared(1, 1, 1) == ["1", "1", "2"]
    assert shared(1, 100, 100) == ["1", "1", "2"]
    with pytest.raises(InputError, match="5 ranks and 4 layers"):
        shared(1, 1, 1, 1, 1)
    with pytest.raises(UnsupportedModelError, match="not divided"):
        open_checkpoint("emoji-siglip2").stages([1, 1], {})


def test_a_pipeline_needs_ranks() -> None:
    with pytest.raises(InputError, match="pipeline is given without group"):
        mlx_mm.load("emoji-glm4v", pipeline=True)


# --- several processes ------------------------------------------------------------------------------------------


def results(folder: Path, out: Path, memory: list[int]) -> dict[str, Any]:
    """What `rank_process` finds on rank 0."""
    out.mkdir()
    words = [str(HERE / "rank_process.py"), str(folder), str(out / "found.npz")]
    if not memory:
        env = environment(out, 0, 1)
        del env["MLX_RANK"], env["MLX_HOSTFILE"]
        subprocess.run([sys.executable, *words], env=env, check=True, timeout=120)
    else:
        for status, _, err in run_all(out, *[[*words, *map(str, memory)]] * len(memory)):
            assert status == 0, err
    with np.load(out / "found.npz") as found:
        return dict(found)


@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG) for name in ("dense", "moe", "dense-4", "moe-4")])
def test_stages_compute_what_one_process_does(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Logits bit for bit, of texts, pictures and videos, and greedy tokens."""
    folder = folders[name.partition("-")[0]]
    if name.endswith("-4"):
        mlx_mm.convert(folder, tmp_path / name, bits=4, group_size=GROUP, method="plain", check=False)
        folder = tmp_path / name
    alone = results(folder, tmp_path / "alone", [])
    for memory in ([1, 1], [3, 1, 2]):
        found = results(folder, tmp_path / f"by {len(memory)}", memory)
        for key, value in alone.items():
            assert np.array_equal(found[key], value), key


@pytest.mark.parametrize("how", [pytest.param(signal.SIGKILL, marks=LONG), pytest.param(signal.SIGSTOP, marks=LONG)])
def test_a_lost_stage_ends_the_others(how: signal.Signals, tmp_path: Path) -> None:
    status, err = chat_without(0, how, tmp_path, "--pipeline", "--memory", "2GB,1GB")
    assert status == 1
    assert "Rank 0 of 2 has ended, or cannot be reached" in err or "cannot find each other" in err


@pytest.mark.parametrize("name", [pytest.param("cat", marks=LONG)])
def test_the_first_stage_speaks(name: str, tmp_path: Path) -> None:
    command = ["-m", "mlx_mm", "generate", "What is this?", "--temperature", "0", "--pipeline"]
    picture = Path(mlx_mm.__file__).parent / "bundled" / "pictures" / f"{name}.png"
    (first, said, _), (second, silent, _) = run_all(tmp_path, [*command, "--image", str(picture)], command)
    assert (first, second) == (0, 0)
    assert said.strip() == name
    assert not silent
    other = [*command, "--memory", "1GB,2GB"]
    for status, _, err in run_all(tmp_path, command, other):
        assert status == 1
        assert "has another division than rank 0" in err
