"""The bundled pictures and sounds as requests hold them, and as the package reads them."""

from __future__ import annotations

import base64
import io

from PIL import Image

from mlx_mm.checkpoint import hub

PICTURES, SOUNDS = hub.BUNDLED / "pictures", hub.BUNDLED / "sounds"


def uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(name: str) -> bytes:
    """A bundled one on white, as PNG."""
    with Image.open(PICTURES / f"{name}.png") as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    return png(white.convert("RGB"))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def sound(name: str) -> bytes:
    return (SOUNDS / f"{name}.flac").read_bytes()


def film(*names: str) -> bytes:
    """Two frames of each picture, half a second long."""
    frames = [Image.open(io.BytesIO(picture(name))) for name in names for _ in range(2)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=500)
    return file.getvalue()
