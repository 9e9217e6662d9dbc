"""The family for the table in `mlx_mm.models`."""

from mlx_mm.models.family import Family
from mlx_mm.models.metaclip_2.config import ModelConfig
from mlx_mm.models.metaclip_2.model import ARCHITECTURES
from mlx_mm.models.metaclip_2.processor import Processor

FAMILY = Family("metaclip_2", ModelConfig, ARCHITECTURES, Processor.from_folder)
