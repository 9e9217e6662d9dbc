"""The index that is served where no other is named: of the pictures and sounds that the package brings."""

import contextlib
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.checkpoint import hub
from mlx_mm.cli.demo_run import alone, cache_folder, copied, lay_out
from mlx_mm.errors import OutputError, reason

if TYPE_CHECKING:
    from mlx_mm.search.index import Index

WAIT_SECONDS = 60.0  # for another process that brings it up to date


def bundled_index() -> "Index":
    """In the cache, in a folder that is named for what is bundled: made on the first use, in a second or two, and
    brought up to date in no time later. Raises OutputError where the cache cannot be written."""
    from mlx_mm.search.index import Index

    folder = cache_folder() / f"served-{_digest()[:12]}"
    with alone(cache_folder()):
        _lay_out(folder)
        index = Index(folder / "served.mmindex")
        with contextlib.ExitStack() as failed:
            failed.callback(index.close)
            index.refresh([folder / "pictures", folder / "sounds"], wait=WAIT_SECONDS, progress=True)
            if not index.tags():
                plan = json.loads((hub.BUNDLED / "demo.json").read_text("utf-8"))
                index.tag(dict.fromkeys(label for item in plan["classify"] for label in item["labels"]))
            failed.pop_all()
        return index


def _lay_out(folder: Path) -> None:
    """The files, beside their place first, so that there are all or none."""
    from mlx_mm.search.reading import SETTLED

    new = folder.with_suffix(".new")
    made = time.time() - SETTLED  # so that a refresh does not wait for somebody to write on
    for name, lay in (("pictures", lay_out), ("sounds", lambda place: copied(hub.BUNDLED / "sounds", place))):
        if (folder / name).is_dir():
            continue
        try:
            shutil.rmtree(new, ignore_errors=True)
            folder.mkdir(exist_ok=True)
            lay(new)
            for path in new.iterdir():
                os.utime(path, (made, made))
            os.replace(new, folder / name)
        except OSError as error:
            raise OutputError(
                f"{folder / name} cannot be made ({reason(error)}); expected a folder of ours. Set MLX_MM_CACHE to "
                "another one."
            ) from error


def _digest() -> str:
    """Of all that is bundled: another version of the package has an index of its own."""
    found = hashlib.sha256()
    for path in sorted(hub.BUNDLED.rglob("*")):
        if path.is_file() and "fonts" not in path.parts:
            found.update(path.relative_to(hub.BUNDLED).as_posix().encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()
