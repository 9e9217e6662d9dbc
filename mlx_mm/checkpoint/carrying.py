"""Files that travel with the weights from one folder to the next: processor, tokenizer, templates, licence."""

import shutil
from pathlib import Path

from mlx_mm.errors import ConfigError, foreign
from mlx_mm.processing.files import MAX_JSON_BYTES, check_regular

CARRIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
NOT_CARRIED = ("config.json", "conversion.json", "*.index.json")  # which are written anew, or tell of this folder alone


def carry_files(source: Path, new: Path) -> None:
    """Copy them. Raises ConfigError for one that is no small file."""
    skipped = {path for pattern in NOT_CARRIED for path in source.glob(pattern)}
    for path in sorted({path for pattern in CARRIED for path in source.glob(pattern)} - skipped):
        if path.is_file():
            with foreign(ConfigError, f"{path} cannot be carried over", "expected a small file. Take it out."):
                check_regular(path, MAX_JSON_BYTES)
            shutil.copyfile(path, new / path.name)
