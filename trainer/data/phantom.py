"""A procedural torso CT in HU with its exact tissue labels: the data that need no download.

Body outline, fat, muscle, lungs with vessels and airways, heart, aorta, liver with vessels, spleen, kidneys, stomach, bowel,
bladder, spine, ribs, pelvis and the table; each voxel holds one tissue, whose HU is the tissue's mean in that scan plus
coarse and fine texture plus noise. Air makes up 50 to 80 % of the volume. `spacing_mm` is only what is reported: the body
scales with the volume.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Int, Int16, UInt8

from trainer.config import Phantom
from trainer.data.anatomy import FAMILIES, LABEL, TISSUES, Body, Vector
from trainer.data.streams import stream

GENERATOR_VERSION = 1
"""Goes into the data hash: raise it whenever a voxel changes."""

Volume = Float32[np.ndarray, "depth height width"]
Labels = UInt8[np.ndarray, "depth height width"]


def phantom_scan(
    family: str, size: int, noise_hu: float, air_noise_hu: float, seed: int, index: int
) -> tuple[Int16[np.ndarray, "depth height width"], Labels]:
    """HU and tissue labels of scan `index`; both read-only.

    Args:
        family: `torso` or `stocky`.
        size: Edge of the volume in voxels.
        noise_hu: Standard deviation of the noise in the body and the table.
        air_noise_hu: The same in air outside.
        seed: Of all scans.
        index: Scans of one seed are independent of how many there are.
    """
    painter = _Painter(family, size, stream(seed, index, f"phantom/{family}/shape"))
    labels = painter.paint()
    hu = _render(labels, painter.coarse, painter.y, stream(seed, index, f"phantom/{family}/tissue"))
    noise = stream(seed, index, f"phantom/{family}/noise").standard_normal(labels.shape, dtype=np.float32)
    noise *= np.where(labels == LABEL["air"], np.float32(air_noise_hu), np.float32(noise_hu))
    hu += noise
    voxels = np.rint(hu, out=hu).astype(np.int16)
    voxels.setflags(write=False)
    labels.setflags(write=False)
    return voxels, labels


def settings_of(phantom: Phantom) -> tuple[str, int, float, float, int]:
    """The arguments of `phantom_scan` but for the index."""
    return phantom.family, phantom.size_voxels, phantom.noise_hu, phantom.air_noise_hu, phantom.seed


def _render(labels: Labels, coarse: Volume, y: Volume, rng: np.random.Generator) -> Volume:
    between = rng.standard_normal(len(TISSUES))
    means = np.array([t.mean_hu + t.between_scans_hu * b for t, b in zip(TISSUES, between, strict=True)], dtype=np.float32)
    hu = means[labels]
    hu += np.array([t.coarse_hu for t in TISSUES], dtype=np.float32)[labels] * coarse
    hu += np.array([t.fine_hu for t in TISSUES], dtype=np.float32)[labels] * _field(labels.shape[0], 0.4, rng)
    # Lungs are denser where they lie: a gradient toward the back.
    gradient = np.zeros(len(TISSUES), dtype=np.float32)
    gradient[[LABEL["lung_left"], LABEL["lung_right"]]] = 90
    hu += gradient[labels] * y
    return np.asarray(hu)


def _field(size: int, knots_per_voxel: float, rng: np.random.Generator) -> Volume:
    """Smooth Gaussian field of unit variance: white noise on a coarse grid, interpolated linearly."""
    knots = max(4, round(size * knots_per_voxel))
    at = np.linspace(0, knots - 1, size)
    weight = np.maximum(1 - np.abs(at[:, None] - np.arange(knots)), 0)
    # Linear interpolation shrinks the variance between knots; rows of unit norm undo it.
    weight = (weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32)
    field = rng.standard_normal((knots, knots, knots), dtype=np.float32)
    field = (weight @ field.reshape(knots, -1)).reshape(size, knots, knots)
    field = weight @ field
    return np.asarray(field @ weight.T)


class _Painter:
    """Paints the labels of one scan, outside in; later tissue wins where both may lie."""

    def __init__(self, family: str, size: int, rng: np.random.Generator) -> None:
        axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
        self.size, self.voxel, self.rng = size, 2 / size, rng
        self.z, self.y, self.x = axis[:, None, None], axis[None, :, None], axis[None, None, :]
        self.body = Body.of(FAMILIES[family], axis.astype(np.float64), rng)
        self.coarse = _field(size, 0.125, rng)
        self.labels: Labels = np.zeros((size, size, size), dtype=np.uint8)

    def paint(self) -> Labels:
        self._outline()
        self._table()
        self._chest()
        self._abdomen()
        self._skeleton()
        return self.labels

    def _column(self, per_depth: np.ndarray) -> Volume:
        return np.asarray(per_depth, dtype=np.float32)[:, None, None]

    def _level(self, inset: float, power: float = 2.4) -> Volume:
        """Below 1 inside the body outline drawn in by `inset` (superellipse in each slice)."""
        b = self.body
        across = np.abs(self.x - self._column(b.centre_x)) / self._column(b.half_width - inset)
        front = np.abs(self.y - self._column(b.centre_y)) / self._column(b.half_depth - inset)
        return np.asarray(across**power + front**power)

    def _outline(self) -> None:
        b = self.body
        self.labels[self._level(0) < 1] = LABEL["fat"]
        # Muscle bulges: its outer border follows the coarse field.
        self.labels[self._level(b.fat) + 0.04 * self.coarse < 1] = LABEL["muscle"]
        self.wall = self._level(b.fat + b.muscle)
        self.cavity: Bool[np.ndarray, "depth height width"] = self.wall < 1
        self.labels[self.cavity] = LABEL["fat"]

    def _table(self) -> None:
        """A curved slab behind the back, never touching it."""
        b = self.body
        gap, thickness = max(0.05, 2.5 * self.voxel), max(0.05, 1.5 * self.voxel)
        top = float((b.centre_y + b.half_depth).max()) + gap
        surface = self.y - (top - 0.12 * self.x**2)
        slab = (surface > 0) & (surface < thickness) & (np.abs(self.x) < 0.8)
        self.labels[np.broadcast_to(slab, self.labels.shape) & (self.labels == LABEL["air"])] = LABEL["table"]

    def _dome(self, height: float, centre_x: float) -> Volume:
        return np.asarray(height * np.exp(-((self.x - centre_x) ** 2) / 0.10 - (self.y + 0.05) ** 2 / 0.12))

    def _chest(self) -> None:
        b = self.body
        floor = b.diaphragm - 0.16 + self._dome(0.24, -0.36) + self._dome(0.19, 0.38)
        self.above_diaphragm = self.z > floor
        chest = self.cavity & self.above_diaphragm
        middle = 0.10 + 0.05 * np.exp(-((self.z - (b.diaphragm + 0.15)) ** 2) / 0.08)
        apex = b.lung_apex - 0.9 * (np.abs(self.x - self._column(b.centre_x)) - 0.36) ** 2 - 0.5 * self.y**2
        lungs = chest & (self.wall < 0.94) & (self.z < apex) & (self.z > floor + 1.1 * self.voxel)
        side = self.x - self._column(b.spine_x)
        self.labels[lungs & (side < -middle)] = LABEL["lung_right"]
        self.labels[lungs & (side > middle)] = LABEL["lung_left"]
        # A sheet of muscle: the diaphragm.
        self.labels[self.cavity & (np.abs(self.z - floor) < 1.1 * self.voxel)] = LABEL["muscle"]
        lung = (LABEL["lung_right"], LABEL["lung_left"])
        heart_at = (b.diaphragm + 0.17, -0.14, 0.10)
        scale = b.heart_scale
        for hilum in (-0.15, 0.17):
            self._tree((b.diaphragm + 0.34, 0.0, hilum), 9, 5, 0.20, 0.032, lung, LABEL["lung_vessel"])
        everything = tuple(range(1, len(TISSUES)))
        self._ellipsoid(heart_at, (0.23 * scale, 0.21 * scale, 0.20 * scale), LABEL["heart"], (*lung, 1, 2, 5), b.heart_tilt)
        self._ellipsoid(
            (heart_at[0], heart_at[1] - 0.02, heart_at[2] + 0.05), (0.13 * scale, 0.09, 0.08), LABEL["blood"], everything, b.heart_tilt
        )
        self._ellipsoid(
            (heart_at[0] + 0.08, heart_at[1] + 0.03, heart_at[2] - 0.09),
            (0.11, 0.10 * scale, 0.06),
            LABEL["blood"],
            everything,
            b.heart_tilt,
        )
        top = b.diaphragm + 0.52
        front = b.spine_y - b.spine_radius - 0.07
        self._tube(front, b.spine_x + 0.06, 0.045, -0.6 + b.shift, top, LABEL["blood"])
        self._tube(front - 0.02, b.spine_x - 0.10, 0.045, -0.6 + b.shift, b.diaphragm + 0.1, LABEL["blood"])
        arch = np.linspace(0, np.pi, 24)
        z_arch, y_arch = top + 0.09 * np.sin(arch), float(front.mean()) - 0.13 * (1 - np.cos(arch))
        self._dots(np.stack([z_arch, y_arch, np.full(24, 0.05)], axis=1), 0.05, everything, LABEL["blood"])
        self._tube(front - 0.06, b.spine_x, 0.038, b.diaphragm + 0.42, 1.0, LABEL["airway"])
        for hilum in (-0.16, 0.18):
            self._tree((b.diaphragm + 0.42, float(front.mean()) - 0.06, hilum), 2, 2, 0.14, 0.022, lung, LABEL["airway"])

    def _abdomen(self) -> None:
        b, rng, s = self.body, self.rng, self.body.shift
        free = (LABEL["fat"], LABEL["muscle"])
        self.labels[:, :, :][self._abdominal_wall()] = LABEL["muscle"]
        inside = (LABEL["fat"],)
        self._ellipsoid((b.diaphragm - 0.14, -0.06, -0.36), b.liver, LABEL["liver"], free, 0.3, lumps=0.18, below=True)
        self._ellipsoid((b.diaphragm - 0.10, -0.20, -0.05), (0.14, 0.17, 0.30), LABEL["liver"], free, 0.1, lumps=0.15, below=True)
        self._tree((b.diaphragm - 0.24, 0.0, -0.26), 5, 3, 0.16, 0.026, (LABEL["liver"],), LABEL["liver_vessel"])
        self._ellipsoid((b.diaphragm - 0.16, 0.16, 0.50), (0.17, 0.15, 0.10), LABEL["spleen"], free, 0.5, lumps=0.15, below=True)
        tummy = (b.diaphragm - 0.18, -0.14, 0.28)
        self._ellipsoid(tummy, (0.17, 0.16, 0.17), LABEL["bowel_wall"], free, 0.4, lumps=0.1, below=True)
        self._ellipsoid(tummy, (0.14, 0.13, 0.14), LABEL["stomach"], (LABEL["bowel_wall"],), 0.4, lumps=0.1)
        self._ellipsoid((tummy[0] + 0.03, tummy[1] - 0.07, tummy[2]), (0.08, 0.05, 0.09), LABEL["gas"], (LABEL["stomach"],), 0.0)
        for side in (-1, 1):
            at = (b.kidneys_at - 0.04 * (side < 0), 0.21 + 0.03 * rng.uniform(-1, 1), side * (0.31 + 0.04 * rng.uniform(-1, 1)))
            long = 0.19 * rng.uniform(0.9, 1.1)
            self._ellipsoid(at, (long, 0.10, 0.10), LABEL["kidney_cortex"], free, 0.25 * side)
            self._ellipsoid(
                (at[0], at[1], at[2] - 0.03 * side),
                (0.65 * long, 0.05, 0.06),
                LABEL["kidney_medulla"],
                (LABEL["kidney_cortex"],),
                0.25 * side,
            )
        self._ellipsoid((-0.92 + s, -0.12, 0.02), (0.14, 0.14, 0.19), LABEL["bladder"], inside, 0.0)
        self._bowel(inside)

    def _abdominal_wall(self) -> Bool[np.ndarray, "depth height width"]:
        """Psoas: two columns of muscle beside the lumbar spine."""
        b = self.body
        side = np.abs(self.x - self._column(b.spine_x)) - (b.spine_radius + 0.07)
        psoas = (side / 0.075) ** 2 + ((self.y - self._column(b.spine_y)) / 0.10) ** 2 < 1
        return np.asarray(psoas & (self.z < b.diaphragm - 0.2) & (self.labels == LABEL["fat"]))

    def _bowel(self, inside: tuple[int, ...]) -> None:
        """Loops: a random walk of overlapping balls in the belly, some with gas; the colon frames it."""
        b, rng, s = self.body, self.rng, self.body.shift
        at = np.array([-0.45 + s, -0.15, 0.0])
        low, high = np.array([-0.85 + s, -0.42 + b.belly_fat, -0.42]), np.array([b.diaphragm - 0.35, 0.10, 0.42])
        path = []
        direction = rng.standard_normal(3)
        for _ in range(46):
            direction = 0.6 * direction + rng.standard_normal(3)
            at = np.clip(at + 0.085 * direction / np.linalg.norm(direction), low, high)
            path.append(at)
        loops = np.asarray(path)
        turn = np.linspace(0, 1, 9)[:, None]
        up = np.array([-0.75 + s, 0.02, -0.55]) + turn * np.array([0.45, -0.05, 0.0])
        over = up[-1] + turn * np.array([0.0, 0.0, 1.08]) + np.array([[0.0, -0.22, 0.0]]) * np.sin(np.pi * turn)
        down = over[-1] + turn * np.array([-0.45, 0.08, 0.0])
        colon = np.concatenate([up, over, down])
        balls, wall, content, gas = (*inside, LABEL["bowel_wall"]), LABEL["bowel_wall"], LABEL["bowel_content"], LABEL["gas"]
        for points, radius in ((colon, 0.075), (loops, 0.065)):
            self._dots(points, radius, inside, wall)
            self._dots(points, radius - 0.022, balls, content)
            filled = points[rng.random(len(points)) < 0.35]
            self._dots(filled - np.array([0.0, 0.012, 0.0]), radius - 0.034, (content,), gas)

    def _skeleton(self) -> None:
        self._ribs()
        self._spine()
        self._pelvis()

    def _ribs(self) -> None:
        """Rings in the chest wall that fall toward the front and end in cartilage."""
        b = self.body
        shell = (self.wall > 0.86) & (self.wall < 1.10) & (self.z > b.diaphragm - 0.5) & (self.z < b.lung_apex + 0.1)
        at = np.flatnonzero(shell)
        d, h, w = np.unravel_index(at, shell.shape)
        axis = self.z.ravel()
        dy = (axis[h] - b.centre_y[d]) / b.half_depth[d]
        dx = (axis[w] - b.centre_x[d]) / b.half_width[d]
        front = 0.5 * (1 - dy / np.sqrt(dx**2 + dy**2 + 1e-9))
        height = (axis[d] + b.rib_slope * front) / b.rib_pitch + b.rib_phase
        on = np.abs(height - np.rint(height)) * b.rib_pitch < max(0.034, 0.9 * self.voxel)
        # The arch under the breastbone stays open.
        on &= axis[d] > b.diaphragm - 0.5 + 0.45 * front**2
        flat = self.labels.reshape(-1)
        flat[at[on]] = np.where(front[on] < 0.86, LABEL["rib"], LABEL["costal_cartilage"]).astype(np.uint8)
        breast = (np.abs(self.x - self._column(b.centre_x)) < 0.085) & (self.y < self._column(b.centre_y)) & shell
        breast &= (self.z > b.diaphragm + 0.12) & (self.z < b.lung_apex - 0.12)
        self.labels[breast] = LABEL["trabecular_bone"]

    def _spine(self) -> None:
        b, r = self.body, self.body.spine_radius
        across, depth = self.x - self._column(b.spine_x), self.y - self._column(b.spine_y)
        phase = np.mod(self.z.ravel() / b.vertebra_pitch + b.vertebra_phase, 1.0)
        vertebra = (phase > max(0.2, 0.9 * self.voxel / b.vertebra_pitch))[:, None, None]
        arch = (phase > 0.4)[:, None, None]
        radius = across**2 + (depth * 1.15) ** 2
        canal = across**2 + (depth - 1.25 * r) ** 2
        inside = self.labels != LABEL["air"]
        transverse = (np.abs(depth - 1.25 * r) < 0.04) & (np.abs(across) < 2.3 * r) & arch
        spinous = (np.abs(across) < max(0.03, 0.8 * self.voxel)) & (depth > 1.25 * r) & (depth < 3.2 * r) & arch
        ring = (canal < (0.62 * r + 0.035) ** 2) & vertebra
        body = radius < r * r
        shell = r - max(0.03, 0.9 * self.voxel)
        for where, tissue in (
            ((transverse | spinous | ring) & inside, "cortical_bone"),
            (body & ~vertebra, "disc"),
            (body & vertebra, "cortical_bone"),
            ((radius < shell**2) & vertebra, "trabecular_bone"),
            (canal < (0.62 * r) ** 2, "spinal_canal"),
        ):
            self.labels[where] = LABEL[tissue]

    def _pelvis(self) -> None:
        s, bone, marrow = self.body.shift, LABEL["cortical_bone"], LABEL["trabecular_bone"]
        among = (LABEL["fat"], LABEL["muscle"], LABEL["bowel_wall"], bone)
        for side in (-1, 1):
            wing = (-0.74 + s, 0.10, side * 0.45)
            self._ellipsoid(wing, (0.24, 0.25, 0.075), bone, among, 0.35 * side)
            self._ellipsoid(wing, (0.19, 0.20, 0.040), marrow, (bone,), 0.35 * side)
            hip = (-1.0 + s, 0.02, side * 0.52)
            self._ellipsoid(hip, (0.13, 0.11, 0.11), bone, (*among, marrow), 0.0)
            self._ellipsoid(hip, (0.10, 0.08, 0.08), marrow, (bone,), 0.0)

    def _box(self, at: Vector, reach: float) -> tuple[slice, slice, slice] | None:
        low = [max(0, int((c - reach + 1) / self.voxel)) for c in at]
        high = [min(self.size, int((c + reach + 1) / self.voxel) + 2) for c in at]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            return None
        return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])

    def _ellipsoid(
        self, at: Vector, radii: Vector, label: int, among: tuple[int, ...], tilt: float, lumps: float = 0.0, below: bool = False
    ) -> None:
        """An ellipsoid turned by `tilt` radians in the frontal plane, painted over the tissues `among`.

        `lumps` lets the coarse field push its border; `below` keeps it under the diaphragm and inside the cavity.
        """
        box = self._box(at, max(radii) * 1.25)
        if box is None:
            return
        dz, dy, dx = self.z[box[0]] - at[0], self.y[:, box[1]] - at[1], self.x[:, :, box[2]] - at[2]
        cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        along, across = cos * dz + sin * dx, cos * dx - sin * dz
        level = (along / radii[0]) ** 2 + (across / radii[2]) ** 2 + (dy / radii[1]) ** 2
        if lumps:
            level = level + np.float32(lumps) * self.coarse[box]
        part = self.labels[box]
        where = (level < 1) & _among(part, among)
        if below:
            where &= self.cavity[box] & ~self.above_diaphragm[box]
        part[where] = label

    def _tube(self, y: np.ndarray, x: np.ndarray, radius: float, low: float, high: float, label: int) -> None:
        """A vertical tube of given centre at each depth, through all tissue but air."""
        inside = (self.x - self._column(x)) ** 2 + (self.y - self._column(y)) ** 2 < max(radius, 0.7 * self.voxel) ** 2
        self.labels[inside & (self.z > low) & (self.z < high) & (self.labels != LABEL["air"])] = label

    def _tree(self, root: Vector, stems: int, generations: int, length: float, radius: float, among: tuple[int, ...], label: int) -> None:
        """A branching tree from a root: each branch splits in two that are shorter and thinner, in random directions."""
        start = np.repeat(np.asarray([root]), stems, axis=0)
        direction = self.rng.standard_normal((stems, 3))
        direction[:, 2] = np.abs(direction[:, 2]) * (1 if root[2] > 0 else -1)
        for _ in range(generations):
            direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
            end = start + length * direction
            steps = np.linspace(0, 1, max(2, int(np.ceil(length / (0.6 * self.voxel)))))[:, None, None]
            self._dots((start + steps * (end - start)).reshape(-1, 3), radius, among, label)
            start = np.repeat(end, 2, axis=0)
            direction = np.repeat(direction, 2, axis=0) + 0.65 * self.rng.standard_normal((2 * len(end), 3))
            length, radius = 0.78 * length, 0.74 * radius

    def _dots(self, points: np.ndarray, radius: float, among: tuple[int, ...], label: int) -> None:
        """Balls around all these points at once."""
        if not len(points):
            return
        reach = max(radius, 0.55 * self.voxel) / self.voxel
        ball = _ball(round(float(reach), 3))
        at = np.floor((points + 1) / self.voxel).astype(np.int64)
        spots = (at[:, None, :] + ball).reshape(-1, 3)
        spots = spots[((spots >= 0) & (spots < self.size)).all(axis=1)]
        flat = self.labels.reshape(-1)
        index = (spots[:, 0] * self.size + spots[:, 1]) * self.size + spots[:, 2]
        flat[index[_among(flat[index], among)]] = label


@lru_cache(maxsize=256)
def _ball(radius: float) -> Int[np.ndarray, "n 3"]:
    reach = int(radius)
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(grid[(grid**2).sum(axis=1) <= radius**2])


def _among(labels: np.ndarray, allowed: tuple[int, ...]) -> np.ndarray:
    table = np.zeros(len(TISSUES), dtype=bool)
    table[list(allowed)] = True
    return np.asarray(table[labels])
