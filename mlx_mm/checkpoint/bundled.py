"""What each checkpoint that ships with the package was made for, and which one takes its place for anything else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bundled:
    """name: in the folder `bundled`. modalities: that it takes. knows: what it was trained on, and others: what it was
    not, both in the plural. advised: the hub id of a checkpoint for those."""

    name: str
    modalities: tuple[str, ...]
    knows: str
    others: str
    advised: str


PICTURES = Bundled(
    "emoji-siglip2",
    ("text", "image"),
    "emoji-like drawings",
    "photographs",
    "google/siglip2-base-patch16-naflex",
)
SOUNDS = Bundled(
    "sounds-clap",
    ("text", "audio"),
    "synthetic sounds",
    "recordings",
    "laion/clap-htsat-unfused",
)
ANSWERS = Bundled(
    "emoji-glm4v",
    ("text", "image", "video"),
    "simple questions about emoji",
    "real ones",
    "zai-org/GLM-4.6V-Flash",
)
EACH = {one.name: one for one in (PICTURES, SOUNDS, ANSWERS)}
