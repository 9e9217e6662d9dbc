"""What makes the vectors of one model those of another or not: a digest of everything that they depend on."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mlx_mm.checkpoint.digest import DIGEST_BYTES, stamp, weights_digest
from mlx_mm.errors import InputError, shown, whole_number
from mlx_mm.load import OpenCheckpoint
from mlx_mm.models.contracts import EncoderProcessor, ImageProcessor, Processor
from mlx_mm.models.modalities import refuse_generators, require_encoder, unfit
from mlx_mm.search.records import MediaKind

# Raised whenever the same files and settings give other vectors: of how files are read, of windows and key frames.
PREPROCESSING = 1


@dataclass(frozen=True)
class Fingerprint:
    """What vectors depend on.

    digest: of all of it. kinds: of files that have vectors. about: what it was made of, and beside it what a reader
    wants to know: `max_num_patches` as it was asked for, `bits`, and `weights` with the stamp of their files.
    """

    digest: str
    kinds: tuple[MediaKind, ...]
    about: dict[str, object]


def fingerprint(
    checkpoint: OpenCheckpoint,
    patches: int | None = None,
    known: Mapping[str, object] | None = None,
    processor: Processor | None = None,
) -> Fingerprint:
    """Of a checkpoint, whose weights are read only where their files are not those of `known["weights"]`.

    patches: the budget of NaFlex models, None for the checkpoint's own. known: `about` of an earlier one.
    processor: the checkpoint's, where it is loaded already.
    Raises ModalityError for a checkpoint without vectors of pictures or sounds, InputError for patches.
    """
    refuse_generators(checkpoint)
    kinds: tuple[MediaKind, ...] = ("audio",) if "audio" in checkpoint.modalities else ("image", "video")
    require_encoder(checkpoint, "audio" if kinds == ("audio",) else "image")
    processor = processor or checkpoint.processor()
    if processor.kind != "encoder":
        raise unfit("pictures and sounds")
    _check(processor, kinds, patches)
    settings = _settings(processor) | ({} if patches is None else {"max_num_patches": patches})
    quantization = checkpoint.values.get("quantization")
    weights = _weights(checkpoint, known or {})
    parts = {
        "preprocessing": PREPROCESSING,
        "family": checkpoint.values.get("model_type"),
        "weights": weights["digest"],
        "quantization": quantization,
        "settings": settings,
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    bits = quantization.get("bits") if isinstance(quantization, Mapping) else None
    about = {
        "max_num_patches": patches,
        "bits": bits,
        "patches": settings.get("max_num_patches"),
        "weights": weights,
        "parts": parts,
    }
    digest = hashlib.blake2b(canonical.encode(), digest_size=DIGEST_BYTES).hexdigest()
    return Fingerprint(digest, kinds, cast("dict[str, object]", json.loads(json.dumps(about))))


def in_words(name: str, about: Mapping[str, object]) -> str:
    """A model and its settings, as messages call it."""
    parts = [f"{about['bits']} bit" if about.get("bits") else "not quantised"]
    if about.get("patches"):
        parts.append(f"{about['patches']} patches")
    return f"{name} ({', '.join(parts)})"


def _check(processor: EncoderProcessor, kinds: tuple[MediaKind, ...], patches: int | None) -> None:
    if patches is None:
        return
    whole_number("max_num_patches", patches)
    if "image" not in kinds or not isinstance(processor, ImageProcessor):
        raise InputError(f"max_num_patches is {shown(patches)}, and this model hears sounds. Leave it out.")
    processor.check_images(max_num_patches=patches, fast_decode=True)


def _settings(processor: EncoderProcessor) -> dict[str, object]:
    """Those that touch pixels or samples, as JSON has them."""
    values = dataclasses.asdict(cast(Any, processor.settings))
    return cast("dict[str, object]", json.loads(json.dumps(values)))


def _weights(checkpoint: OpenCheckpoint, known: Mapping[str, object]) -> dict[str, object]:
    """The digest of the weights with the stamp of their files."""
    now = stamp(checkpoint.folder)
    before = known.get("weights")
    if isinstance(before, Mapping) and before.get("stamp") == now:
        return {"stamp": now, "digest": before["digest"]}
    return {"stamp": now, "digest": weights_digest(checkpoint.folder)}
