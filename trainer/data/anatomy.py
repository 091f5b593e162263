"""Tissues and body shapes of the phantom: what differs from family to family and from scan to scan.

Lengths are in half edges of the volume, so that the body fills the same share of it at any size; axes are (depth: toward the
head, height: toward the back, width: toward the left), each from -1 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Tissue:
    """HU of a tissue: its mean, how far scans differ in it, and coarse and fine texture (all standard deviations in HU)."""

    name: str
    mean_hu: float
    between_scans_hu: float = 0.0
    coarse_hu: float = 0.0
    fine_hu: float = 0.0


TISSUES = (
    Tissue("air", -1000),
    Tissue("fat", -105, 6, 8, 8),
    Tissue("muscle", 55, 8, 6, 16),
    Tissue("lung_right", -830, 25, 30, 25),
    Tissue("lung_left", -830, 25, 30, 25),
    Tissue("lung_vessel", 60, 20, 10, 10),
    Tissue("airway", -985, 5),
    Tissue("heart", 110, 15, 8, 8),
    Tissue("blood", 190, 40, 6, 4),
    Tissue("liver", 105, 15, 14, 6),
    Tissue("liver_vessel", 175, 20, 6, 4),
    Tissue("spleen", 125, 15, 10, 12),
    Tissue("kidney_cortex", 190, 25, 8, 8),
    Tissue("kidney_medulla", 110, 15, 6, 4),
    Tissue("stomach", 30, 25, 20, 10),
    Tissue("bowel_wall", 75, 12, 8, 10),
    Tissue("bowel_content", 15, 20, 45, 30),
    Tissue("gas", -950, 15),
    Tissue("bladder", 8, 6, 3, 2),
    Tissue("cortical_bone", 850, 90, 60, 90),
    Tissue("trabecular_bone", 260, 45, 30, 60),
    Tissue("disc", 85, 10, 6, 6),
    Tissue("spinal_canal", 35, 6, 4, 4),
    Tissue("rib", 620, 70, 60, 120),
    Tissue("costal_cartilage", 110, 15, 10, 20),
    Tissue("table", 40, 30),
)
"""A tissue's label is its place in this table; 0 is air."""

LABEL = {tissue.name: label for label, tissue in enumerate(TISSUES)}


@dataclass(frozen=True)
class Family:
    """Body proportions that scans of one family vary around; pairs are the ends of a uniform draw."""

    half_width: tuple[float, float]
    half_depth: tuple[float, float]
    fat: tuple[float, float]
    muscle: tuple[float, float]
    profile_at: tuple[float, ...]
    profile_width: tuple[float, ...]
    profile_depth: tuple[float, ...]
    diaphragm: tuple[float, float]
    lung_apex: tuple[float, float]
    vertebra_pitch: tuple[float, float]
    rib_pitch: tuple[float, float]
    liver: Vector
    heart_tilt: tuple[float, float]
    kidneys_at: tuple[float, float]
    belly_fat: float


FAMILIES = {
    "torso": Family(
        half_width=(0.78, 0.87),
        half_depth=(0.51, 0.58),
        fat=(0.035, 0.075),
        muscle=(0.05, 0.075),
        profile_at=(-1.0, -0.7, -0.25, 0.3, 0.7, 0.88, 1.05),
        profile_width=(0.96, 0.98, 0.86, 0.96, 1.0, 0.80, 0.50),
        profile_depth=(0.97, 1.0, 0.88, 1.0, 0.93, 0.75, 0.60),
        diaphragm=(-0.12, 0.08),
        lung_apex=(0.78, 0.92),
        vertebra_pitch=(0.13, 0.155),
        rib_pitch=(0.155, 0.185),
        liver=(0.27, 0.33, 0.36),
        heart_tilt=(0.3, 0.7),
        kidneys_at=(-0.42, -0.3),
        belly_fat=0.10,
    ),
    "stocky": Family(
        half_width=(0.84, 0.92),
        half_depth=(0.58, 0.63),
        fat=(0.09, 0.15),
        muscle=(0.03, 0.05),
        profile_at=(-1.0, -0.7, -0.25, 0.2, 0.6, 0.9, 1.05),
        profile_width=(0.84, 0.92, 1.0, 0.94, 0.95, 1.0, 0.92),
        profile_depth=(0.78, 0.90, 1.0, 0.92, 0.84, 0.80, 0.74),
        diaphragm=(0.18, 0.34),
        lung_apex=(0.92, 1.1),
        vertebra_pitch=(0.16, 0.19),
        rib_pitch=(0.20, 0.24),
        liver=(0.34, 0.36, 0.40),
        heart_tilt=(1.0, 1.4),
        kidneys_at=(-0.2, -0.05),
        belly_fat=0.22,
    ),
}


@dataclass(frozen=True)
class Body:
    """One scan's shape, drawn from its family."""

    half_width: Float[np.ndarray, " depth"]
    half_depth: Float[np.ndarray, " depth"]
    centre_x: Float[np.ndarray, " depth"]
    centre_y: Float[np.ndarray, " depth"]
    fat: float
    muscle: float
    spine_x: Float[np.ndarray, " depth"]
    spine_y: Float[np.ndarray, " depth"]
    spine_radius: float
    diaphragm: float
    lung_apex: float
    vertebra_pitch: float
    vertebra_phase: float
    rib_pitch: float
    rib_phase: float
    rib_slope: float
    liver: Vector
    heart_tilt: float
    heart_scale: float
    kidneys_at: float
    belly_fat: float
    shift: float

    @classmethod
    def of(cls, family: Family, z: Float[np.ndarray, " depth"], rng: np.random.Generator) -> Body:
        """Draw a body on these depths; `shift` moves all organs along the body."""

        def between(ends: tuple[float, float]) -> float:
            return float(rng.uniform(*ends))

        def jitter(share: float) -> float:
            return float(rng.uniform(1 - share, 1 + share))

        shift = float(rng.uniform(-0.1, 0.1))
        width, depth = between(family.half_width), between(family.half_depth)
        at = np.asarray(family.profile_at) + shift * np.array([0, 1, 1, 1, 1, 1, 0])
        wave = [float(v) for v in rng.uniform(-1, 1, 6)]
        centre_y = -0.06 + 0.02 * wave[0] + 0.015 * wave[1] * np.sin(2.2 * z + 3 * wave[2])
        half_depth = depth * np.interp(z, at, np.asarray(family.profile_depth) * rng.uniform(0.97, 1.0, 7))
        return cls(
            half_width=width * np.interp(z, at, np.asarray(family.profile_width) * rng.uniform(0.97, 1.0, 7)),
            half_depth=half_depth,
            centre_x=0.03 * wave[3] + 0.015 * wave[4] * np.sin(2.0 * z + 3 * wave[5]),
            centre_y=centre_y,
            fat=between(family.fat),
            muscle=between(family.muscle),
            spine_x=0.03 * wave[3] + 0.02 * wave[4] * np.sin(2.5 * z + 3 * wave[2]),
            # The lordosis: the lumbar spine stands further from the back than the chest's.
            spine_y=centre_y + half_depth * (0.50 + 0.04 * wave[1] + 0.10 * np.tanh(2 * (z - shift))),
            spine_radius=0.105 * jitter(0.12),
            diaphragm=between(family.diaphragm) + shift,
            lung_apex=between(family.lung_apex) + shift,
            vertebra_pitch=between(family.vertebra_pitch),
            vertebra_phase=float(rng.random()),
            rib_pitch=between(family.rib_pitch),
            rib_phase=float(rng.random()),
            rib_slope=between((0.22, 0.36)),
            liver=(family.liver[0] * jitter(0.12), family.liver[1] * jitter(0.12), family.liver[2] * jitter(0.12)),
            heart_tilt=between(family.heart_tilt),
            heart_scale=jitter(0.12),
            kidneys_at=between(family.kidneys_at) + shift,
            belly_fat=family.belly_fat * jitter(0.3),
            shift=shift,
        )
