"""The contract of executors, held against a real Slurm."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm

_spec = importlib.util.spec_from_file_location("executor_contract", Path(__file__).parents[1] / "contracts" / "test_executors.py")
assert _spec is not None
assert _spec.loader is not None
_contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_contract)
globals().update({name: found for name, found in vars(_contract).items() if name.startswith("test_")})
