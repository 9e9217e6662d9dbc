"""Processors are counted by affinity and by the time that the control groups of either version allow."""

import math
import os
from pathlib import Path

import pytest

from mlx_mm.backend import cpus


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def quota(root: Path, membership: str) -> float:
    (root / "membership").write_text(membership)
    return cpus.quota(root, root / "membership")


def old(group: Path, microseconds: int, period: int) -> None:
    write(group, cpu_cfs_quota_us=f"{microseconds}\n", cpu_cfs_period_us=f"{period}\n")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("150000 100000", 1.5), ("max 100000", math.inf), ("50000 100000", 0.5), ("", math.inf), ("nonsense", math.inf)],
)
def test_version_2(tmp_path: Path, limit: str, expected: float) -> None:
    write(tmp_path / "system" / "job", cpu_max=f"{limit}\n")
    assert quota(tmp_path, "0::/system/job\n") == expected


def test_the_tightest_of_the_groups_around_it_counts(tmp_path: Path) -> None:
    write(tmp_path / "a", cpu_max="200000 100000\n")
    write(tmp_path / "a" / "b", cpu_max="max 100000\n")
    write(tmp_path / "a" / "b" / "c", cpu_max="700000 200000\n")
    write(tmp_path / "a" / "other", cpu_max="1000 100000\n")
    assert quota(tmp_path, "0::/a/b/c\n") == 2


def test_a_container_sees_its_own_group_as_the_outermost(tmp_path: Path) -> None:
    write(tmp_path, cpu_max="300000 100000\n")
    for path in ("/", "/docker/0123", "/../../elsewhere"):
        assert quota(tmp_path, f"0::{path}\n") == 3


@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_version_1(tmp_path: Path, mounted: str) -> None:
    old(tmp_path / mounted / "docker" / "x", 250000, 100000)
    old(tmp_path / "memory" / "docker" / "x", 1000, 100000)
    assert quota(tmp_path, "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n") == 2.5
    old(tmp_path / mounted / "docker" / "x", -1, 100000)
    assert quota(tmp_path, "4:cpu,cpuacct:/docker/x\n") == math.inf


def test_both_versions_at_once(tmp_path: Path) -> None:
    write(tmp_path / "unified" / "x", cpu_max="400000 100000\n")
    old(tmp_path / "cpu" / "x", 300000, 100000)
    assert quota(tmp_path, "1:cpu:/x\n0::/x\n") == 3


def test_no_groups_at_all(tmp_path: Path) -> None:
    assert cpus.quota(tmp_path, tmp_path / "missing") == math.inf
    assert quota(tmp_path, "") == math.inf


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="a Linux matter")
def test_usable_cpus_are_whole_and_within_the_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "membership").write_text("0::/\n")
    monkeypatch.setattr(cpus, "GROUPS", tmp_path)
    monkeypatch.setattr(cpus, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    for limit, expected in (("max", 6), ("1000", 1), ("100000", 1), ("100001", 2), ("900000", 6)):
        write(tmp_path, cpu_max=f"{limit} 100000\n")
        assert cpus.usable_cpus() == expected
