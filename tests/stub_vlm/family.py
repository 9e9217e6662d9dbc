"""The row of the table."""

from mlx_mm.models.stub_vlm.config import ModelConfig
from mlx_mm.models.stub_vlm.model import ARCHITECTURES
from mlx_mm.models.stub_vlm.processor import Processor

from mlx_mm.models.family import Family

FAMILY = Family("stub_vlm", ModelConfig, ARCHITECTURES, Processor)
