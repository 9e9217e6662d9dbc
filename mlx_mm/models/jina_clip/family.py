"""The family for the table in `mlx_mm.models`."""

from mlx_mm.models.family import Family
from mlx_mm.models.jina_clip.config import ModelConfig
from mlx_mm.models.jina_clip.model import ARCHITECTURES
from mlx_mm.models.jina_clip.processor import Processor

FAMILY = Family("jina_clip", ModelConfig, ARCHITECTURES, Processor.from_folder)
