"""A study that ends with nothing adopted names the study to run then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ablate.errors import StudyError
from ablate.loading import load
from ablate.results import Results

STUDIES = Path(__file__).parents[2] / "studies"
SAYS = "The study for this case, beside this one's file: ablate run rescue.yaml"


def written(folder: Path, **changes: object) -> Path:
    document = yaml.safe_load((STUDIES / "smoke.yaml").read_text()) | changes
    (folder / "mine.yaml").write_text(yaml.safe_dump(document))
    return folder / "mine.yaml"


def test_the_study_named_must_lie_beside_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, otherwise="rescu.yaml")
    with pytest.raises(StudyError, match=r"otherwise: expected a study file in .* but there is no rescu\.yaml"):
        load(path)
    (tmp_path / "rescue.yaml").write_text("study: rescue")
    with pytest.raises(StudyError, match=r"Did you mean rescue\.yaml\?"):
        load(path)
    assert load(written(tmp_path, otherwise="rescue.yaml")).otherwise == "rescue.yaml"


@pytest.mark.parametrize("named", [3, "rescue", ["rescue.yaml"]])
def test_what_is_no_study_file_is_refused(tmp_path: Path, named: object) -> None:
    with pytest.raises(StudyError, match="otherwise: expected"):
        load(written(tmp_path, otherwise=named))


def test_collapse_names_rescue_and_both_are_sound() -> None:
    found = load(STUDIES / "collapse.yaml")
    assert found.otherwise is not None
    rescue = load(STUDIES / found.otherwise)
    assert (rescue.study, rescue.objective) == ("rescue", found.objective)
    assert [phase.name for phase in rescue.phases] == ["needed", "targets", "pace"]


@pytest.fixture(scope="module")
def found(planting: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study that has run to its end and adopted something."""
    made = planting(tmp_path_factory.mktemp("otherwise") / "runs")
    made.run()
    return Results(made.root, made.study.study)


@pytest.mark.parametrize(
    ("adopted", "following", "otherwise", "said"),
    [
        (False, None, "rescue.yaml", True),
        (True, None, "rescue.yaml", False),
        (False, "thresholds", "rescue.yaml", False),
        (False, None, None, False),
    ],
)
def test_it_is_named_where_the_study_has_ended_with_nothing(
    found: Results, monkeypatch: pytest.MonkeyPatch, adopted: bool, following: str | None, otherwise: str | None, said: bool
) -> None:
    kept = found.conclusions if adopted else [one.model_copy(update={"winner": "baseline"}) for one in found.conclusions]
    monkeypatch.setattr(found, "conclusions", [*kept[:-1], kept[-1].model_copy(update={"next": following})])
    monkeypatch.setattr(found, "study", found.study.model_copy(update={"otherwise": otherwise}))
    assert (SAYS in found.answer().headline) is said
