"""Pictures at the end of a real trial: they touch nothing, say what they show, come again the same, and cost nothing when they fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainer import checkpoint
from trainer.__main__ import main
from trainer.config import from_mapping
from trainer.train import train

NAMES = ("prototypes.png", "patches.png")
MACHINE = ("loop/steps_per_second", "loop/samples_per_second", "loop/data_fraction", "loop/model_flop_utilisation", "loop/peak_memory_gib")


class Recorder:
    """A run that keeps what it is told, and asks to stop at a step."""

    def __init__(self, directory: Path, stop_at: int | None = None) -> None:
        directory.mkdir(exist_ok=True)
        self.directory, self.stop_at = directory, stop_at
        self.told: dict[int, dict[str, float]] = {}

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.told[step] = {name: value for name, value in metrics.items() if name not in MACHINE}
        return step != self.stop_at


@pytest.fixture(scope="module")
def config(tiny_settings: dict[str, object]) -> dict[str, object]:
    return tiny_settings | {"measure.pictures": True, "measure.every_steps": 1, "loop.steps": 4}


@pytest.fixture(scope="module")
def drawn(config: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    run = Recorder(tmp_path_factory.mktemp("drawn"))
    train(config, run)
    return run


def weights(directory: Path, config: dict[str, object]) -> dict[str, Any]:
    state = checkpoint.load(directory, from_mapping(config), torch.device("cpu"))
    assert state is not None
    found: dict[str, Any] = state["learner"]["student"] | state["learner"]["teacher"]
    return found


def test_measures_weights_and_random_numbers_are_the_same_without_pictures(
    drawn: Recorder, config: dict[str, object], tmp_path: Path
) -> None:
    plain = config | {"measure.pictures": False}
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run = Recorder(tmp_path / "without")
    train(plain, run)
    without = torch.get_rng_state()
    assert not any((run.directory / name).exists() for name in NAMES)
    torch.manual_seed(7)
    again = Recorder(tmp_path / "with")
    train(config, again)
    assert torch.equal(torch.get_rng_state(), without)
    assert torch.equal(without, before)
    assert run.told == again.told == drawn.told
    one, other = weights(run.directory, plain), weights(again.directory, config)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in NAMES:
        assert (again.directory / name).read_bytes() == (drawn.directory / name).read_bytes()


def test_a_picture_says_what_it_shows(drawn: Recorder) -> None:
    for name, words in (("prototypes.png", "nats about which crop"), ("patches.png", "of the features' variance"), ("gallery.png", "")):
        path = drawn.directory / name
        if not words:
            assert not path.exists(), "measure.record_crops is off in this trial"
            continue
        assert path.stat().st_size < 400_000
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.info["Title"]
            assert words in image.info["Description"]


def test_a_resumed_trial_and_one_run_again_draw_the_same(drawn: Recorder, config: dict[str, object], tmp_path: Path) -> None:
    train(config, Recorder(tmp_path, stop_at=2))
    assert not any((tmp_path / name).exists() for name in NAMES)
    for _ in range(2):
        train(config, Recorder(tmp_path))
        for name in NAMES:
            assert (tmp_path / name).read_bytes() == (drawn.directory / name).read_bytes()
            (tmp_path / name).unlink()


def test_the_untrained_network_has_its_pictures_by_calibrated_statistics(config: dict[str, object], tmp_path: Path) -> None:
    run = Recorder(tmp_path)
    train(config | {"loop.steps": 0}, run)
    with Image.open(tmp_path / "prototypes.png") as image:
        said = image.info["Description"]
    assert f"tell {run.told[0]['probe/mutual_information']:.2f} nats" in said, "what the probe measures of the student, calibrated"
    assert (tmp_path / "patches.png").exists()


def test_a_picture_that_fails_is_said_in_log_and_summary_and_costs_the_trial_nothing(
    drawn: Recorder, config: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "patches.png").mkdir()  # no file can take its place
    run = Recorder(tmp_path)
    train(config, run)
    assert run.told == drawn.told
    assert (tmp_path / "prototypes.png").read_bytes() == (drawn.directory / "prototypes.png").read_bytes()
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert any(warning.startswith("patches.png was not drawn: ") for warning in summary["warnings"])
    assert "Traceback" in capsys.readouterr().err
    assert not list(tmp_path.glob(".patches*"))


def test_the_command_draws_what_the_run_drew_and_any_other_scans(
    drawn: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pictures", str(drawn.directory), "--out", str(tmp_path / "same")]) == 0
    assert "teacher of" in capsys.readouterr().out
    for name in NAMES:
        assert (tmp_path / "same" / name).read_bytes() == (drawn.directory / name).read_bytes()
    assert main(["pictures", str(drawn.directory), "--out", str(tmp_path / "other"), "phantom", "--student", "data.phantom.seed=3"]) == 0
    assert "student of" in capsys.readouterr().out
    for name in NAMES:
        assert (tmp_path / "other" / name).read_bytes() != (drawn.directory / name).read_bytes()


def test_the_command_says_what_is_wrong(drawn: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pictures", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    assert main(["pictures", str(drawn.directory), "model.dim=7"]) == 2
    assert "model.dim: is the trained network's own setting" in capsys.readouterr().err
    (tmp_path / "patches.png").mkdir()
    assert main(["pictures", str(drawn.directory), "--out", str(tmp_path)]) == 1
    assert "trainer: patches.png was not drawn: " in capsys.readouterr().err
