"""The README.md of a converted checkpoint: where it comes from, its licence, and what it cost."""

import re
from pathlib import Path

from mlx_mm.errors import ConfigError, foreign
from mlx_mm.processing.files import open_regular

TOP_BYTES = 1 << 20  # of a card, in which its front matter lies
# Keys of a card's front matter that say under which terms the weights may be used
LICENCE_KEYS = ("license", "license_name", "license_link")
CARRIED_KEYS = ("base_model", *LICENCE_KEYS)


def front_matter(folder: Path) -> dict[str, str]:
    """The plain `key: value` lines at the top of a folder's README.md, empty without one."""
    path = folder / "README.md"
    if not path.is_file():
        return {}
    with foreign(ConfigError, f"{path} cannot be read", "expected a model card. Download it again."):
        file = open_regular(path)
    with file:
        top = file.read(TOP_BYTES).decode("utf-8-sig", errors="replace")
    match = re.match(r"---\s*\n(.*?)\n---\s*\n", top, re.DOTALL)
    lines = match.group(1).splitlines() if match else []
    pairs = (re.match(r"([\w-]+):\s*(\S.*)$", line) for line in lines)
    return {pair.group(1): pair.group(2).strip(" \"'") for pair in pairs if pair}


def read_licence(folder: Path) -> str | None:
    """The licence a folder's card names, such as "apache-2.0"; None without one."""
    values = front_matter(folder)
    licence = values.get("license")
    return values.get("license_name", licence) if licence == "other" else licence


def write_card(
    name: str,
    base: str,
    folder: Path,
    how: str,
    sizes: tuple[int, int],
    measured: str = "",
    *,
    default_licence: str | None = None,
) -> str:
    """The text of the card.

    name: of the converted checkpoint. base: of its source, and folder where that lies. how: it was quantised, in words.
    sizes: bytes before and after. measured: tables of what was lost, "" where that is not known.
    default_licence: of the published checkpoints, for a source that names none.
    """
    terms = {key: value for key, value in front_matter(folder).items() if key in LICENCE_KEYS}
    licence = read_licence(folder)
    if licence is None and default_licence is not None:
        terms = {"license": default_licence}
        licence = f"{default_licence}, that of the published checkpoints of this model; the source names none"
    head = ["---", "library_name: mlx", f"base_model: {base}", *(f"{key}: {value}" for key, value in terms.items())]
    before, after = (size / 1e6 for size in sizes)
    body = [
        f"# {name}",
        f"{base} converted with mlx_mm {how}: {before:.1f} MB became {after:.1f} MB.",
        f"Licence of the weights: {licence or 'not named by the source; see the base model'}.",
    ]
    if measured:
        body += ["## What this lost", "Against the base model, on inputs that were not rounded with:", measured]
    return "\n".join([*head, "---", ""]) + "\n" + "\n\n".join(body) + "\n"
