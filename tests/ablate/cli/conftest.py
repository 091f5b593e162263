"""A folder with a study of the toy trainer, and the real commands run there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))

from toyplace import Toyplace


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Toyplace]:
    place = Toyplace(tmp_path)
    yield place
    place.end_all()
