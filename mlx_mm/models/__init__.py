"""The families, and which of them runs a checkpoint."""

import importlib

from mlx_mm.errors import UnsupportedModelError, shown
from mlx_mm.models.config import FamilyConfig
from mlx_mm.models.family import Family

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


def find_family(model_type: object) -> Family[FamilyConfig]:
    """The family that runs `model_type`; UnsupportedModelError lists the known ones."""
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UnsupportedModelError(
            f"config.json has model_type {shown(model_type)}; mlx_mm runs {', '.join(sorted(MODEL_TYPES))}."
        )
    family: Family[FamilyConfig] = importlib.import_module(f"mlx_mm.models.{MODEL_TYPES[model_type]}.family").FAMILY
    return family
