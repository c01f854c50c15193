"""The 14 findings of ChestX-ray14, each by its radiographic sign.

A finding can change the anatomy before it is laid out (``shape``) and add opacities or air to the
picture (``draw``). Sides: -1 is the image's left, which is the patient's right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .anatomy import Chest


def _nothing(chest: Chest) -> None:
    pass


@dataclass(frozen=True)
class Finding:
    """What a finding does to a chest."""

    shape: Callable[[Chest], None] = _nothing
    draw: Callable[[Chest], None] = _nothing


def _side(chest: Chest) -> int:
    return -1 if chest.random.random() < 0.5 else 1


def _texture(chest: Chest, cells: int) -> np.ndarray:
    """Uneven density, 0.4 to 1.6."""
    return np.clip(1 + 0.3 * chest.canvas.noise(chest.random, cells), 0.4, 1.6)


def atelectasis_shape(chest: Chest) -> None:
    # Volume loss: the dome rises and the mediastinum moves to the collapsed side.
    side = _side(chest)
    chest.domes[side] -= chest.random.uniform(0.14, 0.22)
    chest.shift += side * chest.random.uniform(0.05, 0.09)


def atelectasis(chest: Chest) -> None:
    # Plate-like bands above the raised dome.
    c = chest.canvas
    side = 1 if chest.shift > 0 else -1
    u, dome = chest.lateral(side), chest.domes[side]
    band = np.zeros_like(c.x * c.y)
    for height in (0.07, 0.17):
        line = dome - height - chest.random.uniform(0.0, 0.05) - 0.16 * (u - 0.3)
        thick = chest.random.uniform(0.016, 0.026)
        band = np.maximum(band, np.exp(-(((c.y - line) / thick) ** 2)))
    reach = c.inside(0.12 - u, 0.03) * c.inside(u - 0.66, 0.04)
    chest.opacity.append(0.55 * band * reach * chest.lung(side))


def cardiomegaly(chest: Chest) -> None:
    # Cardiothoracic ratio over 0.5: the heart takes more than half of the thorax's width.
    chest.heart_width *= chest.random.uniform(1.5, 1.85)
    chest.heart_height *= chest.random.uniform(1.1, 1.25)


def effusion(chest: Chest) -> None:
    # Fluid in the pleural space: the costophrenic angle is gone, the surface is a meniscus that
    # climbs along the wall.
    c, side = chest.canvas, _side(chest)
    u = chest.lateral(side)
    level = chest.domes[side] - chest.random.uniform(0.06, 0.36)
    surface = level - 0.34 * np.clip((u - 0.22) / 0.55, 0, 1.5) ** 2
    chest.opacity.append(0.78 * c.inside(surface - c.y, 0.02) * chest.lung(side))


def infiltration(chest: Chest) -> None:
    # Ill-defined streaky haze in both lungs, vessels still seen through it.
    c = chest.canvas
    haze = np.clip(chest.canvas.noise(chest.random, 14), 0, 1.5)
    low = np.clip(0.5 + 0.8 * c.y, 0.1, 1)
    chest.opacity.append(0.30 * haze * low * chest.lungs())


def _round(chest: Chest, low: float, high: float) -> None:
    side = _side(chest)
    radius = chest.random.uniform(low, high)
    x = side * chest.random.uniform(0.32, 0.58)
    y = chest.random.uniform(-0.38, 0.22)
    ball = chest.canvas.ball(x, y, radius, chest.random.uniform(0.85, 1.1))
    chest.opacity.append(min(0.34 + 2.4 * radius, 0.62) * ball)


def mass(chest: Chest) -> None:
    # A round opacity of more than 3 cm (a chest is about 30 cm, 1.9 here).
    _round(chest, 0.12, 0.19)


def nodule(chest: Chest) -> None:
    # A round opacity of less than 3 cm.
    _round(chest, 0.05, 0.085)


def pneumonia(chest: Chest) -> None:
    # A patchy, fluffy opacity in one zone, without volume loss.
    c, side = chest.canvas, _side(chest)
    x, y = side * chest.random.uniform(0.32, 0.5), chest.random.uniform(0.05, 0.36)
    zone = c.glow(x, y, chest.random.uniform(0.13, 0.2), chest.random.uniform(0.12, 0.18))
    patches = np.clip(0.75 + 0.6 * c.noise(chest.random, 18), 0, 1.6)
    chest.opacity.append(0.58 * zone * patches * chest.lung(side))


def pneumothorax(chest: Chest) -> None:
    # Air around a lung that has come off the wall: a dark rim without vessels, and the thin line
    # of the visceral pleura.
    c, side = chest.canvas, _side(chest)
    u, gap = chest.lateral(side), chest.random.uniform(0.16, 0.34)
    edge = chest.wall() - gap * np.clip(1.1 - 0.55 * (c.y + 0.6), 0.25, 1.2)
    apex = (c.radius(side * 0.36, -0.12, 0.36, 0.64 - 0.9 * gap) - 1) * 0.3
    outside = np.maximum(u - edge, np.where(c.y < -0.12, apex, -1.0))
    lung = chest.lung(side)
    chest.air.append(0.62 * c.inside(-outside, 0.006) * lung)
    chest.opacity.append(0.16 * np.exp(-((outside / 0.011) ** 2)) * lung)
    chest.opacity.append(0.10 * c.inside(outside, 0.02) * lung)  # the lung is denser, collapsed


def consolidation(chest: Chest) -> None:
    # A lobe without air: dense, even, cut off straight at the fissure.
    c, side = chest.canvas, _side(chest)
    fissure = chest.random.uniform(-0.2, 0.0) + 0.1 * (chest.lateral(side) - 0.3)
    upper = chest.random.random() < 0.5
    lobe = c.inside(c.y - fissure, 0.01) if upper else c.inside(fissure + 0.16 - c.y, 0.01)
    chest.opacity.append(0.55 * lobe * _texture(chest, 8) * chest.lung(side))


def edema(chest: Chest) -> None:
    # Bat wings: haze on both sides of the hila that spares the periphery.
    c = chest.canvas
    strength = chest.random.uniform(0.48, 0.66)
    for side in (-1, 1):
        wing = c.glow(side * 0.30, 0.04, 0.15, 0.22, side * 0.2)
        chest.opacity.append(strength * wing * _texture(chest, 22) * chest.lung(side))


def emphysema(chest: Chest) -> None:
    # Too much air: dark lungs, low flat domes, a narrow upright heart, few vessels.
    for side in (-1, 1):
        chest.domes[side] += chest.random.uniform(0.14, 0.2)
    chest.flatness = 0.35
    chest.heart_width *= 0.74
    chest.lucency = chest.random.uniform(0.0, 0.25)
    chest.vessels = 0.45


def fibrosis(chest: Chest) -> None:
    # A net of fine lines at the bases and the periphery.
    c = chest.canvas
    ridges = np.exp(-((c.noise(chest.random, 44) / 0.3) ** 2))
    rim = np.clip((np.abs(c.x) - 0.2) / 0.35, 0, 1) * np.clip(0.35 + 1.1 * c.y, 0.05, 1)
    chest.opacity.append(0.46 * ridges * rim * chest.lungs())


def pleural_thickening(chest: Chest) -> None:
    # A band along the chest wall, uneven inwards.
    c, side = chest.canvas, _side(chest)
    thick = chest.random.uniform(0.07, 0.11) * np.clip(1 + 0.5 * c.noise(chest.random, 9), 0.4, 1.8)
    band = c.inside(chest.wall() - thick - chest.lateral(side), 0.012)
    height = c.inside(chest.random.uniform(-0.5, -0.3) - c.y, 0.05)
    chest.opacity.append(0.52 * band * height * chest.lung(side))


def hernia(chest: Chest) -> None:
    # The stomach behind the heart: a round shadow with an air-fluid level.
    c = chest.canvas
    radius = chest.random.uniform(0.17, 0.23)
    x, y = chest.random.uniform(-0.04, 0.08), chest.patient.diaphragm - 0.08
    sac = c.ellipse(x, y, radius * 1.15, radius, 0.012)
    level = y + chest.random.uniform(-0.03, 0.04)
    chest.opacity.append(0.34 * sac * c.inside(level - c.y, 0.006))
    gas = c.ellipse(x, y, radius * 1.02, radius * 0.86, 0.012) * c.inside(c.y - level, 0.006)
    chest.air.append(0.42 * gas)


#: in the order of ChestX-ray14
FINDINGS = {
    "Atelectasis": Finding(atelectasis_shape, atelectasis),
    "Cardiomegaly": Finding(shape=cardiomegaly),
    "Effusion": Finding(draw=effusion),
    "Infiltration": Finding(draw=infiltration),
    "Mass": Finding(draw=mass),
    "Nodule": Finding(draw=nodule),
    "Pneumonia": Finding(draw=pneumonia),
    "Pneumothorax": Finding(draw=pneumothorax),
    "Consolidation": Finding(draw=consolidation),
    "Edema": Finding(draw=edema),
    "Emphysema": Finding(shape=emphysema),
    "Fibrosis": Finding(draw=fibrosis),
    "Pleural_Thickening": Finding(draw=pleural_thickening),
    "Hernia": Finding(draw=hernia),
}
