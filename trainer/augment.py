"""Crops in HU become the network's input: small affine change, right angles, blur, window, gamma, intensity and noise, on the device.

All numbers were drawn before (trainer.data.changes), so the result does not depend on the device, but for rounding, nor on how
a batch is cut.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int16
from torch import Tensor

from trainer.config import Augment, Data, TrainerConfig
from trainer.data import Changes

Images = Float32[Tensor, "crops 1 depth height width"]

ROTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
    if np.linalg.det(np.eye(3)[list(axes)] * np.array(signs)[:, None]) > 0
]
"""The 24 proper rotations of a cube: for each new axis the old one it is, and its direction."""


def views(
    images: Int16[np.ndarray, "batch views 1 depth height width"], changes: Changes, settings: TrainerConfig, device: torch.device
) -> Images:
    """The network's input, view by view: all scans' first views, then all second ones."""
    crops = torch.from_numpy(images).to(device, non_blocking=True).transpose(0, 1)
    own = crops.to(torch.float32, memory_format=torch.contiguous_format, copy=True).flatten(0, 1)
    return prepare_(own, changes.by_view(), settings)


def prepare_(x: Images, changes: Changes, settings: TrainerConfig) -> Images:
    """Window and augment crops of one size; may write into them.

    Args:
        x: HU.
        changes: Of these crops, [crops, ...].

    Returns:
        The window maps to [-1, 1]; scale, shift and noise may lead out of it.
    """
    a = settings.augment
    x = _affine(x, changes, a)
    x = _right_angles(x, changes, a)
    x = _blur(x, changes, a)
    x = _window(x, changes, a, settings.data)
    x = _gamma(x, changes, a)
    if a.intensity_scale or a.intensity_shift:
        x.mul_(_column(1 + a.intensity_scale * changes.intensity[:, 0], x)).add_(_column(a.intensity_shift * changes.intensity[:, 1], x))
    if a.noise:
        x.add_(_noise(changes, x), alpha=a.noise)
    return x


def _column(values: Float[np.ndarray, " crops"], like: Tensor) -> Float[Tensor, "crops 1 1 1 1"]:
    return torch.from_numpy(np.asarray(values)).to(like.device, like.dtype).view(-1, 1, 1, 1, 1)


def _chosen(coins: Float[np.ndarray, "*views"], prob: float) -> Bool[np.ndarray, "*views"]:
    return np.asarray(coins < prob)


def _affine(x: Images, changes: Changes, a: Augment) -> Images:
    """Rotation about each axis by up to `affine_rotation_degrees` and a change of size by up to `affine_scale`, about the centre.

    Trilinear; outside the crop its nearest voxel is seen.
    """
    rows = np.flatnonzero(_chosen(changes.affine[:, 0], a.affine_prob))
    if not len(rows):
        return x
    angles = np.deg2rad(a.affine_rotation_degrees) * changes.affine[rows, 1:4]
    size = 1 + a.affine_scale * changes.affine[rows, 4]
    turns = np.stack([_about(axis, angles[:, axis]) for axis in range(3)])
    theta = np.einsum("nij,njk,nkl->nil", *turns) / size[:, None, None]
    theta = np.concatenate([theta, np.zeros((len(rows), 3, 1))], axis=2)
    some = x[rows]
    grid = F.affine_grid(torch.from_numpy(theta).to(x.device, x.dtype), list(some.shape), align_corners=False)
    x[rows] = F.grid_sample(some, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return x


def _about(axis: int, angle: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3 3"]:
    found = np.tile(np.eye(3), (len(angle), 1, 1))
    i, j = [other for other in range(3) if other != axis]
    found[:, i, i] = found[:, j, j] = np.cos(angle)
    found[:, i, j], found[:, j, i] = -np.sin(angle), np.sin(angle)
    return found


def _right_angles(x: Images, changes: Changes, a: Augment) -> Images:
    """One of 24 rotations, then mirrors: each distinct pose once, for all crops that have it."""
    turn = changes.turn if a.rotate_right_angles else np.zeros_like(changes.turn)
    flips = changes.flips if a.flip else np.zeros_like(changes.flips)
    if not (turn.any() or flips.any()):
        return x
    poses = np.concatenate([turn[:, None], flips], axis=1)
    moved = torch.empty_like(x)
    for pose in np.unique(poses, axis=0):
        rows = np.flatnonzero((poses == pose).all(axis=1))
        axes, signs = ROTATIONS[int(pose[0])]
        mirrored = [2 + new for new in range(3) if (signs[new] < 0) != bool(pose[1 + new])]
        moved[rows] = torch.flip(x[rows].permute(0, 1, *(2 + old for old in axes)), mirrored)
    return moved


def _blur(x: Images, changes: Changes, a: Augment) -> Images:
    """Gaussian of up to `blur_voxels` along each axis; kernel out to three times the greatest width, edges repeated."""
    rows = np.flatnonzero(_chosen(changes.blur[:, 0], a.blur_prob))
    reach = int(np.ceil(3 * a.blur_voxels))
    if not len(rows) or reach == 0:
        return x
    widths = np.maximum(a.blur_voxels * changes.blur[rows, 1], 1e-3)
    kernels = np.exp(-0.5 * (np.arange(-reach, reach + 1) / widths[:, None]) ** 2)
    weights = torch.from_numpy(kernels / kernels.sum(axis=1, keepdims=True)).to(x.device, x.dtype)
    some = x[rows].transpose(0, 1)
    for axis in range(3):
        shape, pad = [1, 1, 1], [0] * 6
        shape[axis] = -1
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = reach
        some = F.conv3d(F.pad(some, pad, mode="replicate"), weights.view(len(rows), 1, *shape), groups=len(rows))
    x[rows] = some.transpose(0, 1)
    return x


def _window(x: Images, changes: Changes, a: Augment, data: Data) -> Images:
    """Clip HU to the window, or to one whose centre and width were drawn, and map it to [-1, 1]."""
    if not a.window_prob:
        centre, half = _middle(data)
        return x.sub_(centre).mul_(1 / half).clamp_(-1, 1)
    centres, halves = _windows(changes, a, data)
    return x.sub_(_column(centres, x)).div_(_column(halves, x)).clamp_(-1, 1)


def windows_hu(changes: Changes, settings: TrainerConfig) -> Float[np.ndarray, "*views 2"]:
    """Lower and upper end of the HU window through which each view is seen."""
    centres, halves = _windows(changes, settings.augment, settings.data)
    return np.stack([centres - halves, centres + halves], axis=-1)


def _windows(changes: Changes, a: Augment, data: Data) -> tuple[Float[np.ndarray, "*views"], Float[np.ndarray, "*views"]]:
    centre, half = _middle(data)
    drawn = _chosen(changes.window[..., 0], a.window_prob)
    return centre + drawn * a.window_shift_hu * changes.window[..., 1], half * (1 + drawn * a.window_stretch * changes.window[..., 2])


def _middle(data: Data) -> tuple[float, float]:
    """Centre and half width of the window of the settings."""
    return (data.window_low_hu + data.window_high_hu) / 2, (data.window_high_hu - data.window_low_hu) / 2


def _gamma(x: Images, changes: Changes, a: Augment) -> Images:
    """x^gamma on the window's [0, 1]; |log gamma| up to `gamma`."""
    if not a.gamma_prob:
        return x
    drawn = _chosen(changes.gamma[:, 0], a.gamma_prob)
    return 2 * ((x + 1) / 2) ** _column(np.exp(drawn * a.gamma * changes.gamma[:, 1]), x) - 1


def _noise(changes: Changes, like: Images) -> Images:
    """Standard normal, from each crop's own seed: the same on every device."""
    shape = like.shape[1:]
    drawn = np.stack([np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for seed in changes.noise_seed.tolist()])
    return torch.from_numpy(drawn).to(like.device)
