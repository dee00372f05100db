"""Pictures as arrays and back: bit depth, palette, transparency.

A picture is (H, W, C) float64 with colours premultiplied by alpha, so that interpolation does not
mix in the colour of transparent pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pystn.cli.errors import CommandError, needs_extra

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Picture", "check_writable", "grey", "read", "save", "write"]

# Pillow's modes that are sampled as they are; every other is converted to one of them.
LARGEST = {"L": 255, "LA": 255, "RGB": 255, "RGBA": 255, "I;16": 65535}


@dataclass
class Picture:
    """Pixels (H, W, C), and the Pillow mode that they are stored in."""

    pixels: np.ndarray[Any, np.dtype[np.float64]]
    mode: str


def kept_mode(image: Image.Image) -> str:
    """The mode in which an image is sampled and written."""
    mode: str = image.mode
    if mode in LARGEST:
        return mode
    if mode == "F":
        return "F"
    if mode in ("I", "I;16B", "I;16L", "I;16N"):
        return "I;16"
    if mode == "1":
        return "L"
    if "transparency" in image.info or mode in ("PA", "La", "RGBa"):
        return "RGBA"
    return "RGB"


def read(path: str) -> Picture:
    """Read an image file."""
    with needs_extra():
        from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(path) as image:
            mode = kept_mode(image)
            if image.mode == mode or mode == "I;16":
                values = np.array(image)
            else:
                values = np.array(image.convert(mode))
    except UnidentifiedImageError:
        raise CommandError(f"{path} is not an image that Pillow reads") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise CommandError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if mode == "I;16" and values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise CommandError(f"{path} has integer pixels beyond 16 bits, from {values.min()} to {values.max()}")
    pixels = values.astype(np.float64)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if mode in ("LA", "RGBA"):
        pixels[..., :-1] *= pixels[..., -1:] / 255
    return Picture(pixels, mode)


def to_image(picture: Picture) -> Image.Image:
    from PIL import Image

    pixels = picture.pixels
    if picture.mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32))
    if picture.mode in ("LA", "RGBA"):
        alpha = pixels[..., -1:]
        visible = alpha > 0
        colour = np.divide(pixels[..., :-1] * 255, alpha, out=np.zeros_like(pixels[..., :-1]), where=visible)
        pixels = np.concatenate([colour, alpha], axis=-1)
    largest = LARGEST[picture.mode]
    values = np.clip(np.rint(pixels), 0, largest).astype(np.uint16 if largest > 255 else np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def check_writable(path: str) -> None:
    """Fail before any work if a picture could not be written there."""
    with needs_extra():
        from PIL import Image
    Image.init()
    target = Path(path)
    if target.suffix.lower() not in Image.EXTENSION:
        raise CommandError(f"cannot write {path}: unknown image format {target.suffix!r}")
    if not target.parent.is_dir():
        raise CommandError(f"cannot write {path}: {target.parent} is no directory")


def save(image: Image.Image, path: str) -> None:
    try:
        image.save(path)
    except (OSError, ValueError, KeyError) as error:
        raise CommandError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def write(picture: Picture, path: str) -> None:
    """Write an image file, rounding half to even and saturating."""
    save(to_image(picture), path)


def grey(picture: Picture) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Luminance in [0, 1], (H, W)."""
    pixels = picture.pixels
    largest = LARGEST.get(picture.mode) or max(float(np.abs(pixels).max(initial=0.0)), 1e-30)
    if picture.mode in ("RGB", "RGBA"):
        pixels = pixels[..., :3] @ np.array([0.299, 0.587, 0.114])
    else:
        pixels = pixels[..., 0]
    return (pixels / largest).astype(np.float32)
