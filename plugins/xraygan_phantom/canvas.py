"""Drawing in normalized coordinates, so that a picture is the same at any resolution."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


class Canvas:
    """A square of ``size`` pixels with x from -1 (left) to 1 and y from -1 (top) to 1."""

    def __init__(self, size: int) -> None:
        self.size = size
        axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
        self.x = axis[None, :]
        self.y = axis[:, None]

    def inside(self, distance: np.ndarray, softness: float) -> np.ndarray:
        """1 where a signed distance is negative, 0 where it is positive, soft in between."""
        return 1 / (1 + np.exp(np.clip(distance / softness, -30, 30)))

    def ellipse(
        self, cx: float, cy: float, rx: float, ry: float, softness: float = 0.02, tilt: float = 0.0
    ) -> np.ndarray:
        """A filled ellipse with soft edges."""
        return self.inside((self.radius(cx, cy, rx, ry, tilt) - 1) * min(rx, ry), softness)

    def radius(self, cx: float, cy: float, rx: float, ry: float, tilt: float = 0.0) -> np.ndarray:
        """Distance from a centre in units of an ellipse's radii: 1 on its edge."""
        dx, dy = self.x - cx, self.y - cy
        c, s = np.cos(tilt), np.sin(tilt)
        return np.sqrt(((c * dx + s * dy) / rx) ** 2 + ((c * dy - s * dx) / ry) ** 2)

    def glow(self, cx: float, cy: float, rx: float, ry: float, tilt: float = 0.0) -> np.ndarray:
        """A Gaussian of standard deviations rx, ry."""
        return np.exp(-0.5 * self.radius(cx, cy, rx, ry, tilt) ** 2)

    def ball(self, cx: float, cy: float, radius: float, squash: float = 1.0) -> np.ndarray:
        """The thickness of a ball along the beam, 1 in its middle."""
        r = self.radius(cx, cy, radius, radius * squash)
        return np.sqrt(np.clip(1 - r**2, 0, None))

    def noise(self, random: np.random.Generator, cells: int) -> np.ndarray:
        """Smooth noise of about unit deviation, ``cells`` bumps across at any resolution."""
        grid = random.standard_normal((cells, cells)).astype(np.float32)
        image = Image.fromarray(grid).resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(image)

    def lines(self, strokes: list[tuple[float, float, float, float, float]]) -> np.ndarray:
        """Straight strokes (x0, y0, x1, y1, width) as a mask; overlaps do not add up."""
        image = Image.new("L", (self.size, self.size))
        draw = ImageDraw.Draw(image)
        half = self.size / 2
        for x0, y0, x1, y1, width in strokes:
            ends = [((x + 1) * half, (y + 1) * half) for x, y in ((x0, y0), (x1, y1))]
            thick = width * half
            # A line thinner than a pixel is drawn a pixel wide and as much fainter.
            draw.line(ends, fill=round(255 * min(thick, 1.0)), width=max(1, round(thick)))
        return np.asarray(image, dtype=np.float32) / 255
