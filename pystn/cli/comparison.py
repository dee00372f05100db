"""A picture of a registration: fixed, moving, moved, and the differences before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["comparison"]

PANEL = 300  # width in pixels
MARGIN = 12
CAPTION = 26
PAPER, INK = (250, 250, 248), (40, 40, 44)


def signed(difference: np.ndarray) -> np.ndarray:
    """Differences in [-1, 1] as colours: blue below, white at zero, red above; (H, W, 3) in [0, 1]."""
    strength = np.clip(2.5 * difference, -1, 1)[..., None]
    blue, red = np.array([0.13, 0.32, 0.75]), np.array([0.80, 0.16, 0.12])
    colours: np.ndarray = 1 - np.abs(strength) * (1 - np.where(strength < 0, blue, red))
    return colours


def comparison(fixed: np.ndarray, before: np.ndarray, after: np.ndarray) -> Image.Image:
    """Five captioned panels in a row; pictures (H, W) in [0, 1]."""
    from PIL import Image, ImageDraw, ImageFont

    panels = {
        "fixed": fixed,
        "moving": before,
        "moving, registered": after,
        "difference before": signed(before - fixed),
        "difference after": signed(after - fixed),
    }
    height = max(1, round(PANEL * fixed.shape[0] / fixed.shape[1]))
    width = len(panels) * (PANEL + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, height + CAPTION + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for i, (caption, pixels) in enumerate(panels.items()):
        image = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).convert("RGB")
        left = MARGIN + i * (PANEL + MARGIN)
        sheet.paste(image.resize((PANEL, height), Image.Resampling.LANCZOS), (left, MARGIN))
        draw.text((left, height + MARGIN + 6), caption, fill=INK, font=font)
    return sheet
