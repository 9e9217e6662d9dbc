"""The engines that `compare.py` knows, one file for each library.

`ENGINES` says of each which file has it, what the file is to make of it, and what its process has in its environment.
"""

from typing import NamedTuple


class Engine(NamedTuple):
    """file: a module of this package with prepare(work, folder, variant) -> a function from a case to a run."""

    file: str
    variant: str = ""
    environment: tuple[tuple[str, str], ...] = ()


PURE, EXACT = (("MLX_MM_CPU", "off"),), (("MLX_MM_CPU", "exact"),)

ENGINES = {
    "mlx_mm": Engine("ours"),
    "mlx_mm 8 bit": Engine("ours", "8bit"),
    "mlx_mm 4 bit": Engine("ours", "4bit"),
    "mlx_mm exact 8 bit": Engine("ours", "8bit", EXACT),
    "mlx_mm exact 4 bit": Engine("ours", "4bit", EXACT),
    "mlx_mm pure": Engine("ours", "", PURE),
    "mlx_mm pure 8 bit": Engine("ours", "8bit", PURE),
    "mlx_mm pure 4 bit": Engine("ours", "4bit", PURE),
    "torch": Engine("with_torch"),
    "torch bf16": Engine("with_torch", "bfloat16"),
    "onnxruntime": Engine("with_onnxruntime"),
    "onnxruntime int8": Engine("with_onnxruntime", "int8"),
    "openvino": Engine("with_openvino"),
    "openvino 8-bit weights": Engine("with_openvino", "8bit"),
    "llama.cpp Q4_0": Engine("with_llama", "Q4_0"),
}
