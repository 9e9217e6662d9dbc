"""The family for the table in `mlx_mm.models`."""

from mlx_mm.models.family import Family
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.model import ARCHITECTURES
from mlx_mm.models.glm4v.processor import Processor
from mlx_mm.models.glm4v.sharing import Share
from mlx_mm.models.glm4v.stages import stages

FAMILY = Family("glm4v", ModelConfig, ARCHITECTURES, Processor.from_folder, Share, stages)
