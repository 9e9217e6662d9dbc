"""The families, and which of them runs a checkpoint."""

import importlib
from dataclasses import dataclass
from typing import Any

from mlx_mm.errors import UnsupportedModelError

# `model_type` of config.json -> folder of models/
MODEL_TYPES = {
    "clap": "clap",
    "clap_audio_model": "clap",
    "clap_text_model": "clap",
    "clip": "metaclip_2",
    "clip_text_model": "metaclip_2",
    "clip_vision_model": "metaclip_2",
    "glm46v": "glm4v",
    "glm4v": "glm4v",
    "glm4v_moe": "glm4v",
    "jina_clip": "jina_clip",
    "metaclip_2": "metaclip_2",
    "metaclip_2_text_model": "metaclip_2",
    "metaclip_2_vision_model": "metaclip_2",
    "siglip": "siglip2",
    "siglip_text_model": "siglip2",
    "siglip_vision_model": "siglip2",
    "siglip2": "siglip2",
    "siglip2_text_model": "siglip2",
    "siglip2_vision_model": "siglip2",
}

# Name of a published checkpoint -> what is known to be wrong with its weights
KNOWN_PROBLEMS = {
    "larger_clap_music": "its text tower gives nearly the same vector for every text, so scores mean little; "
    "laion/larger_clap_general does not have this fault",
}


@dataclass(frozen=True)
class Family:
    """The three rooms of a family, see `models.base`."""

    name: str
    config: Any
    model: Any
    processor: Any

    def model_class(self, architectures: list[str] | None) -> Any:
        """The class for `architectures` of config.json; UnsupportedModelError lists the known ones."""
        known = self.model.ARCHITECTURES
        wanted = (architectures or [""])[0]
        if wanted not in known:
            raise UnsupportedModelError(
                f"config.json names the architecture {wanted!r}; {self.name} runs "
                f"{', '.join(sorted(name for name in known if name))}."
            )
        return known[wanted]


def find_family(model_type: Any) -> Family:
    """The family that runs `model_type`; UnsupportedModelError lists the known ones."""
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UnsupportedModelError(
            f"config.json has model_type {model_type!r}; mlx_mm runs {', '.join(sorted(MODEL_TYPES))}."
        )
    name = MODEL_TYPES[model_type]
    rooms = (importlib.import_module(f"mlx_mm.models.{name}.{room}") for room in ("config", "model", "processor"))
    return Family(name, *rooms)
