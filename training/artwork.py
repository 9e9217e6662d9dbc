"""Pictures of the concepts: Noto from Debian's colour font, other designs from packaged SVG collections.

Every function returns square RGBA Pillow images, so callers choose the background.
"""

import io
import json
import re
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

NOTO_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # Debian package fonts-noto-color-emoji
NOTO_STRIKE = 109  # the only size (in points) stored in the font; its bitmaps are 136×128 pixels

# Folder name of the unpacked npm package @iconify-json/<name> -> its licence. Only permissive artwork is trained
# on; the held-out designs are looked at, never learnt from, so their licences do not reach the weights.
TRAINING_ARTWORK = {
    "noto-v1": "Apache-2.0",
    "fluent-emoji-flat": "MIT",
    "fluent-emoji": "MIT",
    "fxemoji": "Apache-2.0",
}
HELD_OUT_ARTWORK = {"twemoji": "CC-BY-4.0", "openmoji": "CC-BY-SA-4.0"}


def noto_bitmap(emoji: str) -> Image.Image | None:
    """The picture stored in Debian's Noto font, cut to what is drawn; None if the font lacks the emoji."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((80, 80), emoji, font=_noto_font(), anchor="mm", embedded_color=True)
    box = canvas.getbbox()
    # A missing emoji is drawn as a narrow empty box.
    return None if box is None or box[2] - box[0] < 20 else canvas.crop(box)


def noto_picture(emoji: str, size: int = 128) -> Image.Image | None:
    bitmap = noto_bitmap(emoji)
    return None if bitmap is None else square(bitmap, size)


@cache
def _noto_font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(NOTO_FONT), NOTO_STRIKE)


def square(picture: Image.Image, size: int, margin: float = 0.04) -> Image.Image:
    """`picture` scaled to fit a transparent square of `size` pixels, leaving `margin` free on each side."""
    inner = size * (1 - 2 * margin)
    scale = inner / max(picture.size)
    scaled = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(scaled, ((size - scaled.width) // 2, (size - scaled.height) // 2))
    return canvas


class IconSet:
    """One unpacked @iconify-json package: icons by name, and a table from code points to names."""

    def __init__(self, folder: Path):
        icons = json.loads((folder / "icons.json").read_text())
        self.size = icons.get("width", 16), icons.get("height", 16)
        self.icons = icons["icons"]
        chars = json.loads((folder / "chars.json").read_text())
        self.by_char = {code.removesuffix("-fe0f"): name for code, name in chars.items()}
        self.by_squashed_name = {squash(name): name for name in self.icons}

    def picture(self, emoji: str, english: str, size: int = 128) -> Image.Image | None:
        """Sets without a code point table are matched by CLDR name, then by Unicode character name."""
        candidates = (
            self.by_char.get(f"{ord(emoji):x}"),
            self.by_squashed_name.get(squash(english)),
            self.by_squashed_name.get(squash(unicodedata.name(emoji, ""))),
        )
        name = next((c for c in candidates if c in self.icons), None)
        return None if name is None else self._render(self.icons[name], size)

    def _render(self, icon: dict, size: int) -> Image.Image:
        from resvg_py import svg_to_bytes  # only needed where SVG artwork is used

        width, height = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
        )
        png = svg_to_bytes(svg_string=svg, width=2 * size, skip_system_fonts=True)
        rendered = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        return square(rendered.crop(rendered.getbbox()), size)


def squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", name.lower()))


def on_background(picture: Image.Image, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    canvas = Image.new("RGBA", picture.size, (*colour, 255))
    return Image.alpha_composite(canvas, picture).convert("RGB")


def disturbed(picture: Image.Image, seed: int) -> Image.Image:
    """A reproducible hard view: turned, shrunk, moved, on a plain colour, often on a canvas that is not square."""
    rng = np.random.default_rng(seed)
    height = 144
    width = round(height * float(np.exp(rng.uniform(-0.5, 0.5))))
    scale = rng.uniform(0.6, 0.95) * min(width, height) / picture.width
    turned = picture.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC)
    side = round(picture.width * scale)
    turned = turned.resize((side, side), Image.Resampling.BILINEAR)
    canvas = Image.new("RGBA", (width, height), (*(int(c) for c in rng.integers(60, 256, 3)), 255))
    corner = round(rng.uniform(0, width - side)), round(rng.uniform(0, height - side))
    canvas.alpha_composite(turned, corner)
    pixels = np.asarray(canvas.convert("RGB"), np.float32)
    pixels = (pixels - 128) * rng.uniform(0.8, 1.2) + 128 + rng.uniform(-20, 20)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
