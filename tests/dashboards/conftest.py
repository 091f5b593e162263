from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from ablate.results import Results


@pytest.fixture(scope="session")
def results(planting: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The planted study run to its end, one trial of one arm failed for good."""
    picture = io.BytesIO()
    Image.new("RGB", (60, 40), (120, 30, 30)).save(picture, "PNG")
    made = planting(tmp_path_factory.mktemp("dashboards") / "runs", gallery=picture.getvalue())
    made.run(failing=lambda phase, arm: phase == "matching" and "foreground_only" in arm.name)
    return Results(made.root, "planted")
