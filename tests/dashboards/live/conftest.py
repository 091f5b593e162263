"""A study of the toy trainer, its record, and the real dashboard of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dashboards.live.record import Record

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "ablate" / "cli"))
sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))

from toyplace import Toyplace


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Toyplace]:
    place = Toyplace(tmp_path)
    yield place
    place.end_all()


@pytest.fixture
def record_of() -> Callable[[Path, str], Record]:
    """The record of a study, with the status that the command gives it."""
    from ablate.cli.status import status_of

    return lambda runs, study: Record(runs, study, lambda: status_of(runs, study).model_dump(mode="json"))


@pytest.fixture
def dashboard() -> Callable[[Toyplace, str], str]:
    """Starts `ablate dashboard` in a place, which ends it, and gives its address: `dashboard(place, "toy")`."""

    def start(place: Toyplace, study: str) -> str:
        process = place.start("dashboard", study, "--no-browser")
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found is not None, line + process.stdout.read()
        return found.group()

    return start
