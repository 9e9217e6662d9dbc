"""The family for the table in `mlx_mm.models`."""

from mlx_mm.models.clap.config import ModelConfig
from mlx_mm.models.clap.model import ARCHITECTURES
from mlx_mm.models.clap.processor import Processor
from mlx_mm.models.family import Family

FAMILY = Family("clap", ModelConfig, ARCHITECTURES, Processor.from_folder)
