"""What the installation makes of a compiler, of one that fails, and of none. The compiler here is a short script."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[3]
PLACE = "mlx_mm/backend/native/"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS has no kernels to compile")


def load(path: Path) -> ModuleType:
    """A file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load(REPOSITORY / "native" / "build.py")


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CXX: writes "compiled" where -o says, and a line with what it was given into a file."""
    path = tmp_path / "compiler"
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nwhile [ "$1" != -o ]; do shift; done\nprintf compiled > "$2"\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.delenv("MLX_MM_NO_NATIVE", raising=False)
    return path


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "failing"
    path.write_text("#!/bin/sh\necho 'In file: note' >&2\necho 'x.cpp:1: error: no such flag' >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def test_a_library_ends_in_its_digest_and_replaces_the_reason(tmp_path: Path, compiler: Path) -> None:
    (tmp_path / build.REASON).write_text("of an earlier time")
    assert build.install(tmp_path) is None
    content = (tmp_path / build.LIBRARY).read_bytes()
    assert content == b"compiled" + hashlib.sha256(b"compiled").digest()
    assert not (tmp_path / build.REASON).exists()
    assert {path.name for path in tmp_path.iterdir()} == {build.LIBRARY, "calls", "compiler"}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_instruction_set_has_its_flags(tmp_path: Path, compiler: Path, machine: str) -> None:
    build.build(tmp_path / "out.so", machine=machine)
    calls = (tmp_path / "calls").read_text().splitlines()
    for name, flags in build.SETS[machine].items():
        (line,) = (call.split() for call in calls if f"-DMM_SET={name.replace('-', '_')} " in call)
        assert set(flags) == {word for word in line if word.startswith("-m")}
    assert "native" not in " ".join(word for call in calls for word in call.split() if word.startswith("-m"))
    rest = [call for call in calls if " library.cpp" in call or " pool.cpp" in call]
    assert len(rest) == 2
    assert not any(word.startswith("-m") for call in rest for word in call.split())


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / build.LIBRARY).write_text("of an earlier time")
    reason = build.install(tmp_path)
    assert reason == "no C++ compiler was found; install g++ or clang++, and then mlx_mm again"
    assert (tmp_path / build.REASON).read_text() == reason + "\n"
    assert not (tmp_path / build.LIBRARY).exists()


def test_the_first_compiler_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("c++", "clang++", "g++"):
        (tmp_path / name).touch(0o755)
        assert build.find_compiler() == name


def test_a_compiler_that_fails_is_quoted_in_one_line(tmp_path: Path, failing: None) -> None:
    reason = build.install(tmp_path)
    assert reason == f"{tmp_path}/failing failed: x.cpp:1: error: no such flag"[: build.LONGEST]
    assert (tmp_path / build.REASON).read_text().count("\n") == 1


def test_a_compiler_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++ -O1")
    assert build.install(tmp_path).startswith("/nowhere/g++ could not be run (")


def test_where_it_is_not_compiled(tmp_path: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("MLX_MM_NO_NATIVE", "1")
        assert build.install(tmp_path) == "MLX_MM_NO_NATIVE was set when mlx_mm was installed"
    with monkeypatch.context() as changed:
        changed.setattr(sys, "platform", "darwin")
        assert build.install(tmp_path) == "mlx_mm was installed on darwin, and there are kernels for Linux alone"
    with monkeypatch.context() as changed:
        changed.setattr(build.platform, "machine", lambda: "riscv64")
        assert build.install(tmp_path) == "there are kernels for x86_64 and aarch64, and this is riscv64"
    assert not (tmp_path / "calls").exists()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parts of the repository that make a wheel, with a library of an earlier time among the sources."""
    pytest.importorskip("hatchling")
    root = tmp_path / "project"
    shutil.copytree(REPOSITORY / "native", root / "native", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "pyproject.toml",
        "hatch_build.py",
        "README.md",
        "LICENSE",
        "mlx_mm/__init__.py",
        PLACE + "library.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, root / name)
    (root / PLACE / build.LIBRARY).write_text("of an earlier time")
    monkeypatch.chdir(root)
    return root


def wheel(folder: Path, name: str) -> dict[str, bytes]:
    """What a wheel holds of the kernels' package."""
    with zipfile.ZipFile(folder / name) as archive:
        return {path.removeprefix(PLACE): archive.read(path) for path in archive.namelist() if path.startswith(PLACE)}


def test_a_wheel_with_kernels_is_for_one_platform(project: Path, compiler: Path, tmp_path: Path) -> None:
    from hatchling.build import build_wheel

    name = build_wheel(str(tmp_path))
    assert name == f"mlx_mm-0.1.0-py3-none-linux_{os.uname().machine}.whl"
    files = wheel(tmp_path, name)
    assert files.keys() == {"library.py", build.LIBRARY}
    assert files[build.LIBRARY].startswith(b"compiled")
    assert (project / PLACE / build.LIBRARY).read_bytes() == files[build.LIBRARY]  # for tests, which run there


def test_a_wheel_without_kernels_is_for_any(project: Path, failing: None, tmp_path: Path) -> None:
    from hatchling.build import build_wheel

    name = build_wheel(str(tmp_path))
    assert name == "mlx_mm-0.1.0-py3-none-any.whl"
    files = wheel(tmp_path, name)
    assert files.keys() == {"library.py", build.REASON}
    assert b"error: no such flag" in files[build.REASON]
    assert not (project / PLACE / build.LIBRARY).exists()


def test_an_editable_installation_has_them_among_the_sources(project: Path, compiler: Path, tmp_path: Path) -> None:
    hooks = load(project / "hatch_build.py")
    hooks.CustomBuildHook(str(project), {}, None, None, str(tmp_path), "wheel").initialize("editable", {})
    assert (project / PLACE / build.LIBRARY).read_bytes().startswith(b"compiled")
