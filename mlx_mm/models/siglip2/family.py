"""The family for the table in `mlx_mm.models`."""

from mlx_mm.models.family import Family
from mlx_mm.models.siglip2.config import ModelConfig
from mlx_mm.models.siglip2.model import ARCHITECTURES
from mlx_mm.models.siglip2.processor import Processor

FAMILY = Family("siglip2", ModelConfig, ARCHITECTURES, Processor.from_folder)
