"""Tests import what lies beside them; the toy trainer and the stage live with the contracts that they serve first."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "contracts")]
