"""Compiles the CPU kernels when the package is installed or a wheel is built; see native/build.py.

Where they cannot be compiled the wheel is a pure one, which says why to `mlx_mm info`: an installation never fails.
"""

from __future__ import annotations

import importlib.util
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = "mlx_mm/backend/native"


class CustomBuildHook(BuildHookInterface):  # hatchling looks for the only class of this kind, by no name
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is written. An editable one shows to the sources, so the library goes there."""
        native = _load(Path(self.root, "native", "build.py"))
        if version == "editable":
            reason = native.install(Path(self.root, PLACE))
        else:
            self._folder = tempfile.TemporaryDirectory()
            reason = native.install(Path(self._folder.name))
            for path in Path(self._folder.name).iterdir():
                build_data["force_include"][str(path)] = f"{PLACE}/{path.name}"
            if reason is None:
                build_data["pure_python"] = False
                build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
        if reason is not None:
            self.app.display_warning(f"mlx_mm is installed without its CPU kernels: {reason}.")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """After it is written."""
        if self._folder is not None:
            self._folder.cleanup()


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mlx_mm_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
