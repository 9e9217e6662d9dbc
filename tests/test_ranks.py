"""A model in parts, one for each of several processes, against the same model in one."""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from comparing import LONG
from glm_side_files import write_glm_side_files
from glm_tiny import DENSE, MOE, glm_config, glm_weights
from several import HERE, chat_without, environment, idles, run_all, started
from tiny import write_checkpoint, write_json

import mlx_mm
from mlx_mm.backend import ranks
from mlx_mm.checkpoint import matching, reading
from mlx_mm.checkpoint.parts import Part, read_part
from mlx_mm.errors import InputError, UnsupportedModelError, WeightsError
from mlx_mm.load import open_checkpoint

LOGIT = 1e-4
GROUP = 32  # numbers that are quantised together
PLAIN: dict[str, Any] = {"method": "plain", "check": False}


def config_of(kind: str) -> dict[str, Any]:
    """Of a tiny model whose heads four ranks can share; those with experts have some of a width that they cannot."""
    config = glm_config(kind)
    config["text_config"] |= {"num_attention_heads": 8, "head_dim": 32, "intermediate_size": 224}
    if kind == MOE:
        config["text_config"] |= {"moe_intermediate_size": 160, "n_shared_experts": 2}
    return config


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by name: of both kinds, as on the hub, and of 8 and 4 bits."""
    root, found = tmp_path_factory.mktemp("models"), {}
    for name, kind in (("dense", DENSE), ("moe", MOE)):
        config = config_of(kind)
        found[name] = write_checkpoint(root / name, config, glm_weights(config), side_files=write_glm_side_files)
        for bits in (8, 4):
            found[f"{name}-{bits}"] = root / f"{name}-{bits}"
            mlx_mm.convert(found[name], found[f"{name}-{bits}"], bits=bits, group_size=GROUP, **PLAIN)
    return found


# --- parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((8, 4096), Part(0, ((2, 5),))),
        ((8, 4096), Part(1, ((0, 2048),))),
        ((8, 6), Part(1, ((1, 3),))),
        ((3, 8, 5), Part(1, ((1, 3), (5, 7)))),
        ((3, 8, 1000), Part(2, ((999, 1000),))),
    ],
)
def test_a_part_of_a_tensor_is_read_alone(tmp_path: Path, shape: tuple[int, ...], part: Part) -> None:
    numbers = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    file = tmp_path / "numbers"
    file.write_bytes(b"header" + numbers.tobytes())
    read, count = read_part(file, 6, 4, shape, part)
    wanted = np.concatenate([numbers.take(range(*ends), part.axis) for ends in part.ranges], part.axis)
    assert wanted.shape == part.shape(shape)
    assert (read.view(np.float32) == wanted.ravel()).all()
    assert wanted.nbytes <= count <= numbers.nbytes
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="in the middle"):
        read_part(file, 6, 4, shape, Part(0, ((0, shape[0]),)))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", ["dense", "moe", "dense-8", "moe-4"])
def test_ranks_have_all_of_a_model_together(folders: dict[str, Path], name: str, count: int) -> None:
    opened, whole = open_checkpoint(folders[name]), reading.Checkpoint(folders[name]).arrays
    shares = [opened.share(rank, count) for rank in range(count)]
    seen = dict.fromkeys(whole, 0)
    for share in shares:
        found = reading.Checkpoint(folders[name], share.part).arrays
        for tensor, array in found.items():
            part = share.part(tensor, whole[tensor].shape)
            seen[tensor] += array.size
            if part is not None:
                wanted = [whole[tensor][(slice(None),) * part.axis + (slice(*ends),)] for ends in part.ranges]
                assert mx.array_equal(array, mx.concatenate(wanted, part.axis)), tensor
    copied = {tensor: size / whole[tensor].size for tensor, size in seen.items() if size != whole[tensor].size}
    keys = {tensor for tensor in copied if ".k_proj." in tensor or ".v_proj." in tensor}
    assert all(copied[tensor] == count / 2 for tensor in keys)  # of two heads, which some ranks have copies of
    assert len(keys) == (0 if count == 2 else len([t for t in whole if ".k_proj." in t or ".v_proj." in t]))
    rest = [tensor for tensor in copied.keys() - keys if "visual" not in tensor and "vision" not in tensor]
    assert all("norm" in tensor or ".mlp.gate." in tensor for tensor in rest), rest


def test_a_part_fits_the_model_that_its_config_describes(folders: dict[str, Path]) -> None:
    opened = open_checkpoint(folders["moe"])
    share = opened.share(1, 4)
    model = opened.family.architectures[""](share.config)
    tensors = model.sanitize(reading.Checkpoint(folders["moe"], share.part).arrays)
    matching.check_match(matching.parameter_shapes(model), tensors, folders["moe"])


def test_ranks_that_do_not_divide_a_model_are_named(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"3 ranks, and 8 heads .* expected 2 or 4 or 8"):
        open_checkpoint(folders["dense"]).share(0, 3)
    wide = folders["dense"].parent / "wide"
    mlx_mm.convert("emoji-glm4v", wide, bits=4, group_size=64)
    with pytest.raises(InputError, match=r"groups of 64.*which do not divide.*smaller group size"):
        open_checkpoint(wide).share(0, 2)
    with pytest.raises(UnsupportedModelError, match="not divided"):
        open_checkpoint("emoji-siglip2").share(0, 2)


def test_a_group_needs_a_launcher() -> None:
    with pytest.raises(InputError, match=r"one rank.*mlx\.launch"):
        mlx_mm.load("emoji-glm4v", group=mx.distributed.init())
    with pytest.raises(InputError, match="expected that of"):
        mlx_mm.load("emoji-glm4v", group=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"started alone.*mlx\.launch"):
        ranks.join(1)


# --- several processes ------------------------------------------------------------------------------------------


def results(folder: Path, out: Path, count: int) -> dict[str, Any]:
    """What `rank_process` finds on rank 0."""
    out.mkdir()
    words = [str(HERE / "rank_process.py"), str(folder), str(out / "found.npz")]
    if count == 1:
        env = environment(out, 0, 1)
        del env["MLX_RANK"], env["MLX_HOSTFILE"]
        subprocess.run([sys.executable, *words], env=env, check=True, timeout=120)
    else:
        for status, _, err in run_all(out, *[words] * count):
            assert status == 0, err
    with np.load(out / "found.npz") as found:
        return dict(found)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        pytest.param("dense", (2, 4), marks=LONG),
        pytest.param("moe", (2, 4), marks=LONG),
        *[pytest.param(f"{kind}-{bits}", (2, 4), marks=LONG) for kind in ("dense", "moe") for bits in (8, 4)],
        pytest.param("emoji-glm4v", (2,), marks=LONG),
        *[pytest.param(f"emoji-{bits}", (2,), marks=LONG) for bits in (8, 4)],
    ],
)
def test_ranks_compute_what_one_process_does(
    folders: dict[str, Path], tmp_path: Path, name: str, counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits and greedy tokens. Where inputs are rounded to 8 bits, which the exact kernels do not, a sum in another
    order may round otherwise."""
    monkeypatch.setenv("MLX_MM_CPU", "exact")
    folder = folders.get(name, Path(name))
    if name.startswith("emoji-") and name not in folders and name != "emoji-glm4v":
        folder = tmp_path / name
        mlx_mm.convert("emoji-glm4v", folder, bits=int(name[-1]), group_size=GROUP)
    alone = results(folder, tmp_path / "alone", 1)
    for count in counts:
        found = results(folder, tmp_path / f"by {count}", count)
        for key, value in alone.items():
            if value.dtype.kind == "f":
                assert np.abs(found[key] - value).max() <= LOGIT, key
            else:
                assert found[key] == value, key


@pytest.mark.parametrize("change", [pytest.param(change, marks=LONG) for change in ("weights", "config")])
def test_ranks_with_other_files_are_refused(folders: dict[str, Path], tmp_path: Path, change: str) -> None:
    other = shutil.copytree(folders["dense"], tmp_path / "dense")
    if change == "config":
        write_json(other / "config.json", config_of(DENSE) | {"seen": 1})
    else:
        weights = other / "model.safetensors"
        data = bytearray(weights.read_bytes())
        header = int.from_bytes(data[:8], "little")
        data[8 + header] ^= 1
        weights.write_bytes(data)
    script = str(HERE / "rank_process.py")
    out = str(tmp_path / "out.npz")
    for status, _, err in run_all(tmp_path, [script, str(folders["dense"]), out], [script, str(other), out]):
        assert status == 1
        assert "Of 2 ranks, 1 has other files than rank 0" in err


COMMAND = ["-m", "mlx_mm", "generate", "What is this?", "--temperature", "0"]


@pytest.mark.parametrize("name", [pytest.param("cat", marks=LONG)])
def test_the_first_rank_speaks(name: str, tmp_path: Path) -> None:
    picture = Path(mlx_mm.__file__).parent / "bundled" / "pictures" / f"{name}.png"
    (first, said, _), (second, silent, _) = run_all(tmp_path, [*COMMAND, "--image", str(picture)], COMMAND)
    assert (first, second) == (0, 0)
    assert said.strip() == name
    assert not silent


@LONG[0]
@LONG[1]
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_ranks_sleep_while_a_chat_waits(tmp_path: Path) -> None:
    """Where MLX waits for a rank, it keeps a processor busy."""
    words = ["-m", "mlx_mm", "chat", "--temperature", "0"]
    with started(tmp_path, words, words, stdin=subprocess.PIPE) as (first, second):
        assert first.stdin is not None
        assert first.stdout is not None
        for _ in range(2):
            first.stdin.write("Hello.\n")
            first.stdin.flush()
            assert first.stdout.readline() == "Hello! I am a small model. I know emoji.\n"
            time.sleep(0.5)
            assert idles(second.pid)
        first.stdin.write("/exit\n")
        first.stdin.flush()
        assert (first.wait(60), second.wait(60)) == (0, 0)


@pytest.mark.parametrize("how", [pytest.param(signal.SIGKILL, marks=LONG), pytest.param(signal.SIGSTOP, marks=LONG)])
def test_a_lost_rank_ends_the_others(how: signal.Signals, tmp_path: Path) -> None:
    """While the first waits for somebody to say something."""
    status, err = chat_without(1, how, tmp_path)
    assert status == 1
    assert "Rank 1 of 2 has ended, or cannot be reached" in err or "cannot find each other" in err
