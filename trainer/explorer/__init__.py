"""The crop viewer: one page with a scan in three planes, its crops, and where crops can lie at any threshold and ratio.

display      the scan as the page shows it: coarser, one byte a voxel
feasible     exact shares of feasible positions, and a coarse map of where they lie, for thresholds and ratios
page         all of it in one file that needs no network
"""

from __future__ import annotations

from trainer.explorer.page import Drawn, write

__all__ = ["Drawn", "write"]
