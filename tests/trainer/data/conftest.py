"""What the tests of scans on disk start from."""

from __future__ import annotations

import locale
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """ITK sets the whole process to the locale C when it writes DICOM (tests alone do); later tests would read text as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)
