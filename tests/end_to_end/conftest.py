"""What the end-to-end tests start from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace in which the tiny study ran to its end, undisturbed."""
    place = Workplace(tmp_path_factory.mktemp("finished"))
    place.run_to_its_end()
    return place
