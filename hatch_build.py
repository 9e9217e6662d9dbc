"""Compiles the CPU kernels when the package is installed or a wheel is built; see native/build.py.

Where they cannot be compiled the wheel is a pure one, which says why to `mlx_mm info`: an installation never fails.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = "mlx_mm/backend/native"


class CustomBuildHook(BuildHookInterface):  # hatchling looks for the only class of this kind, by no name
    _spare: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is written. The library stays among the sources too, where tests and editable installations
        find it."""
        native = _load(Path(self.root, "native", "build.py"))
        place = Path(self.root, PLACE)
        if not os.access(place, os.W_OK):
            self._spare = tempfile.TemporaryDirectory()
            place = Path(self._spare.name)
        reason = native.install(place)
        if version != "editable":
            name = native.REASON if reason else native.LIBRARY
            build_data["force_include"][str(place / name)] = f"{PLACE}/{name}"
        if reason:
            self.app.display_warning(f"mlx_mm is installed without its CPU kernels: {reason}.")
        elif version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mlx_mm_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
