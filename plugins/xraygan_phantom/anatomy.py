"""The normal chest: a virtual patient, and a radiograph as a sum of attenuation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage

from .canvas import Canvas


@dataclass(frozen=True)
class Patient:
    """A virtual patient. Lengths are in half image widths."""

    seed: int
    number: int
    age: int
    sex: str
    view: str
    build: float  # soft tissue, 1 on average
    width: float  # of the thorax
    heart: float  # of the heart's width
    diaphragm: float  # height of its right dome
    ribs: float  # distance between two
    tilt: float  # of the whole patient, radians

    @classmethod
    @cache
    def draw(cls, seed: int, number: int) -> Patient:
        """The patient with this number, always the same."""
        random = np.random.default_rng([seed, 1, number])
        sex = "F" if random.random() < 0.46 else "M"
        return cls(
            seed=seed,
            number=number,
            age=int(np.clip(random.normal(50, 17), 18, 92)),
            sex=sex,
            view="AP" if random.random() < 0.3 else "PA",
            build=float(np.clip(random.normal(1.0, 0.15), 0.7, 1.35)),
            width=float(random.normal(0.94 if sex == "F" else 1.0, 0.05)),
            heart=float(np.clip(random.normal(1.0, 0.06), 0.86, 1.12)),
            diaphragm=float(random.normal(0.5, 0.045)),
            ribs=float(random.normal(0.165, 0.006)),
            tilt=float(random.normal(0, 0.02)),
        )


@dataclass
class Chest:
    """The anatomy that findings can change, before and after it is drawn.

    Attributes:
        opacity: attenuation that findings add, in the lungs' projection.
        lucency: share of the lungs' own attenuation that is left, 1 for normal.
    """

    canvas: Canvas
    patient: Patient
    random: np.random.Generator
    heart_width: float = 1.0
    heart_height: float = 1.0
    shift: float = 0.0  # of heart and mediastinum to the image's right
    domes: dict[int, float] = field(default_factory=dict)  # side -> y of the dome
    flatness: float = 1.0  # of the diaphragm, smaller is flatter
    lucency: float = 1.0
    vessels: float = 1.0
    opacity: list[np.ndarray] = field(default_factory=list)
    air: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The right dome (left in the image, side -1) is higher, because the liver is below it.
        self.domes = {-1: self.patient.diaphragm, 1: self.patient.diaphragm + 0.05}

    def lateral(self, side: int) -> np.ndarray:
        """x measured outwards from the midline to one side of the image."""
        return side * self.canvas.x

    def wall(self) -> np.ndarray:
        """The lateral extent of a lung at each height."""
        y = self.canvas.y
        top = -0.80
        rise = np.clip((y - top) / 0.75, 0, 1)
        return self.patient.width * (0.22 + 0.58 * np.sqrt(np.clip(1 - (1 - rise) ** 2, 0, 1)))

    def diaphragm(self, side: int) -> np.ndarray:
        """y of the diaphragm: a dome that falls off to the costophrenic angle."""
        u = self.lateral(side)
        drop = np.clip((u - 0.34) / 0.44, -1.2, 1.6)
        return self.domes[side] + self.flatness * (0.10 * drop**2 + 0.13 * np.clip(drop, 0, 2) ** 3)

    def lung(self, side: int) -> np.ndarray:
        """One lung's projection, 0 to 1."""
        c, u = self.canvas, self.lateral(side)
        half = 0.40 * self.patient.width  # the apex is half an ellipse as wide as the thorax
        apex = c.radius(side * half, -0.15, half, 0.64)
        top = np.where(c.y < -0.15, apex - 1, -1.0) * 0.4
        outer = u - self.wall()
        inner = 0.085 - 0.02 * c.y - u
        edge = np.maximum(np.maximum(outer, inner), np.maximum(top, c.y - self.diaphragm(side)))
        return c.inside(edge, 0.012)

    def lungs(self) -> np.ndarray:
        return np.maximum(self.lung(-1), self.lung(1))

    def heart(self) -> np.ndarray:
        """Thickness of heart and great vessels, about 1 in the middle."""
        c, dx = self.canvas, self.shift
        w = self.patient.heart * self.heart_width
        h = self.heart_height
        floor = self.patient.diaphragm + 0.1
        ventricle = c.ellipse(0.11 * w + dx, floor - 0.27 * h, 0.30 * w, 0.25 * h, 0.018, 0.5)
        atrium = c.ellipse(-0.07 * w + dx, floor - 0.27 * h, 0.17 * w, 0.24 * h, 0.018)
        aorta = c.ellipse(0.085 + dx, -0.24, 0.085, 0.10, 0.018)
        pulmonary = c.ellipse(0.09 + dx, -0.08, 0.10, 0.12, 0.02)
        thick = np.maximum(ventricle, atrium)
        return np.maximum(thick, 0.75 * np.maximum(aorta, pulmonary))


def render(patient: Patient, visit: int, findings: tuple[str, ...], size: int) -> np.ndarray:
    """A radiograph.

    Args:
        visit: the number of the radiograph; it changes positioning, exposure and noise.
        findings: names of :data:`xraygan_phantom.findings.FINDINGS`.
        size: S, pixels.

    Returns:
        ``(S, S)`` uint8, bone bright and air dark.
    """
    from .findings import FINDINGS

    fine = size * 2 if size <= 128 else size
    canvas = Canvas(fine)
    random = np.random.default_rng([patient.seed, 2, patient.number, visit])
    film = np.random.default_rng([patient.seed, 3, patient.number, visit])
    chest = Chest(canvas, patient, random)
    for name in findings:
        FINDINGS[name].shape(chest)
    attenuation = _normal(chest)
    for name in findings:
        FINDINGS[name].draw(chest)
    for layer in chest.opacity:
        attenuation = attenuation + layer
    for layer in chest.air:
        attenuation = attenuation * (1 - layer)
    return _develop(canvas, attenuation, patient, film, size)


def _normal(chest: Chest) -> np.ndarray:
    """Attenuation of the chest without its findings' opacities."""
    c, p = chest.canvas, chest.patient
    lungs, heart = chest.lungs(), chest.heart()
    body = _body(chest)
    tissue = 1.25 * p.build * body
    total = tissue * (1 - 0.74 * lungs * (1 - 0.12 * (1 - chest.lucency)))
    total = total - 0.16 * (1 - chest.lucency) * lungs
    total = total + 0.62 * heart * np.clip(lungs + 0.55, 0, 1)
    below = np.maximum(
        c.inside(chest.diaphragm(-1) - c.y, 0.015) * (c.x < 0),
        c.inside(chest.diaphragm(1) - c.y, 0.015) * (c.x >= 0),
    )
    total = total + 0.42 * below * body * (1 - lungs)
    total = total - 0.30 * c.ellipse(0.36, chest.domes[1] + 0.17, 0.13, 0.07, 0.02) * below
    mediastinum = c.inside(np.abs(c.x - chest.shift) - (0.115 - 0.02 * c.y), 0.02)
    total = total + 0.15 * mediastinum * body
    total = total + _bones(chest) * body
    airway = c.inside(np.abs(c.x - 0.4 * chest.shift) - 0.036, 0.008) * c.inside(c.y + 0.2, 0.02)
    total = total - 0.24 * airway * body
    total = total + 0.17 * chest.vessels * _vessels(chest) * lungs * (1 - 0.7 * heart)
    if p.sex == "F":
        for side in (-1, 1):
            breast = c.radius(side * 0.48, 0.22, 0.36, 0.34)
            total = total + 0.16 * p.build * np.sqrt(np.clip(1 - breast**2, 0, None))
    return total


def _body(chest: Chest) -> np.ndarray:
    """Soft-tissue thickness: neck, sloping shoulders, trunk, 0 beside the patient."""
    c, p = chest.canvas, chest.patient
    heights = np.array([-1.3, -0.98, -0.86, -0.72, -0.5, 0.0, 0.6, 1.3])
    halves = np.array([0.26, 0.28, 0.42, 0.80, 1.02, 0.97, 0.93, 0.95])
    half = np.interp(c.y, heights, halves * (0.6 + 0.4 * p.build)).astype(np.float32) * p.width
    half = ndimage.gaussian_filter1d(half, c.size * 0.02, axis=0)
    across = np.clip(1 - (np.abs(c.x) / (half * 1.06)) ** 2.6, 0, None) ** 0.6
    return across * np.interp(c.y, [-1, -0.6, 0.2, 1], [0.75, 0.95, 1.0, 1.12])


def _bones(chest: Chest) -> np.ndarray:
    """Attenuation of spine, ribs, clavicles and shoulder blades."""
    c, p = chest.canvas, chest.patient
    spine = c.inside(np.abs(c.x) - 0.075, 0.012)
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * (c.y / (0.92 * p.ribs)))
    bones = spine * (0.15 + 0.10 * discs)
    wall = chest.wall()
    for side in (-1, 1):
        u = chest.lateral(side)
        ribs = np.zeros_like(bones)
        for k in range(11):
            y0 = -0.78 + k * p.ribs
            width = 0.021 + 0.0012 * k
            # Behind: from the spine almost level, then down along the wall.
            back = (
                y0
                - 0.10 * np.sin(np.clip(u / 0.75, 0, 1) * np.pi) * 0.6
                + 0.34 * np.clip(u - 0.3, 0, 1) ** 1.6
            )
            reach = c.inside(0.06 - u, 0.01) * c.inside(u - wall - 0.045, 0.008)
            ribs = np.maximum(ribs, _tube(c.y - back, width) * reach)
            # In front: from the wall down to the breastbone, ending in cartilage that is not seen.
            if 1 <= k <= 7:
                front = y0 + 0.16 + 0.62 * np.clip(wall - u, 0, 1) ** 1.15
                reach = c.inside(0.26 - u, 0.05) * c.inside(u - wall - 0.03, 0.008)
                ribs = np.maximum(ribs, 0.62 * _tube(c.y - front, width * 1.15) * reach)
        bones = bones + 0.17 * ribs
        collar = -0.60 - 0.20 * np.clip(u - 0.06, 0, 1) + 0.05 * np.sin((u - 0.06) * 7)
        reach = c.inside(0.05 - u, 0.01) * c.inside(u - 0.80, 0.02)
        bones = bones + 0.27 * _tube(c.y - collar, 0.033) * reach
        blade = c.radius(side * 0.86, -0.34, 0.15, 0.36, -side * 0.25)
        bones = bones + 0.09 * c.inside((blade - 1) * 0.15, 0.02)
        bones = bones + 0.24 * c.ellipse(side * 0.93, -0.72, 0.13, 0.11, 0.02)
    return bones


def _tube(distance: np.ndarray, half: float) -> np.ndarray:
    """A bone across the beam: dense cortex at both edges, lighter marrow between."""
    r = np.abs(distance) / half
    return np.where(r < 1, 0.68 + 0.32 * r**2, np.exp(-(((r - 1) / 0.22) ** 2)))


def _vessels(chest: Chest) -> np.ndarray:
    """Lung vessels: trees that branch and thin out from each hilum."""
    random = np.random.default_rng([chest.patient.seed, 4, chest.patient.number])
    strokes: list[tuple[float, float, float, float, float]] = []

    def grow(x: float, y: float, angle: float, length: float, width: float) -> None:
        if width < 0.004:
            return
        x1, y1 = x + length * np.cos(angle), y + length * np.sin(angle)
        strokes.append((x, y, x1, y1, width))
        for turn in (random.normal(0.42, 0.14), random.normal(-0.42, 0.14)):
            grow(x1, y1, angle + turn, length * random.uniform(0.72, 0.9), width * 0.70)

    for side in (-1, 1):
        for start in np.linspace(-1.15, 1.25, 6):
            angle = start + random.normal(0, 0.12)
            angle = angle if side > 0 else np.pi - angle
            grow(side * 0.15, 0.02, angle, 0.15, 0.034)
    mask = ndimage.gaussian_filter(chest.canvas.lines(strokes), chest.canvas.size * 0.004)
    hila = sum(chest.canvas.glow(side * 0.185, 0.0, 0.055, 0.11, side * 0.25) for side in (-1, 1))
    return mask + 0.9 * hila


def _develop(
    canvas: Canvas,
    attenuation: np.ndarray,
    patient: Patient,
    random: np.random.Generator,
    size: int,
) -> np.ndarray:
    """Positioning, scatter, the film curve, grain, the side marker, and the final size."""
    turn = patient.tilt + random.normal(0, 0.012)
    shift = random.normal(0, 0.025, size=2)
    gain, contrast = random.normal(1.0, 0.05), random.normal(1.0, 0.06)
    n = canvas.size
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos, -sin], [sin, cos]]) * random.uniform(0.93, 1.05)
    centre = (n - 1) / 2
    offset = centre - matrix @ (centre + shift * n / 2)
    image = ndimage.affine_transform(attenuation, matrix, offset, order=1, mode="nearest")
    # Scatter veils the picture a little; the focal spot and the screen blur it.
    image = 0.9 * image + 0.1 * ndimage.gaussian_filter(image, n * 0.05, truncate=2.5)
    image = ndimage.gaussian_filter(image, n * 0.0025)
    density = 1 - np.exp(-1.15 * gain * np.clip(image, 0, None))
    value = np.clip((density - 0.28) / 0.56, 0, None)
    value = np.clip(value, 0, 1.15) ** (1.05 * contrast)
    value = value + 0.012 * canvas.noise(random, 128) + 0.010 * canvas.noise(random, 40)
    if patient.view == "PA":
        marker = [(0.86, -0.92, 0.86, -0.82, 0.02), (0.86, -0.82, 0.92, -0.82, 0.02)]
        value = np.maximum(value, 0.95 * canvas.lines(marker))
    pixels = np.clip(value * 222 + 6, 0, 255)
    if n != size:
        pixels = pixels.reshape(size, n // size, size, n // size).mean(axis=(1, 3))
    return np.asarray(Image.fromarray(pixels.round().astype(np.uint8)))
