"""GPU slots and memory: what the environment of real workers holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Stage

from ablate.errors import StudyError
from ablate.execution.slots import Slots, fitting, visible_gpus
from ablate.ledger import Ledger
from ablate.study import Study


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "runs")
    yield stage
    stage.end_workers()


def study(**changes: object) -> Study:
    document = Stage(Path("."), workers=2).study().model_dump(by_alias=True, exclude_unset=True) | changes
    return Study.model_validate({key: value for key, value in document.items() if value is not ...})


@pytest.mark.parametrize(
    ("listed", "seen"),
    [("0,1", ["0", "1"]), (" 3 , GPU-ab12 ", ["3", "GPU-ab12"]), ("", []), ("-1", []), ("2,-1,3", ["2"]), ("NoDevFiles", ["NoDevFiles"])],
)
def test_the_gpus_that_a_process_may_use_are_those_that_cuda_would(monkeypatch: pytest.MonkeyPatch, listed: str, seen: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == seen


def test_nvidia_smi_is_asked_where_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-a)'\necho '  MIG 1g: no'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-b)'\n")
    tool.chmod(0o755)
    assert visible_gpus() == ["0", "1"]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() is None


def test_gpus_are_named_among_those_that_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert Slots.of(study()).devices == ("4", "6", "7")
    assert Slots.of(study(gpus=[0, 2])).devices == ("4", "7")
    assert Slots.of(study(gpus=[])) == Slots()
    assert Slots.of(study(executor="inline")) == Slots()
    with pytest.raises(StudyError, match=r"gpus: expected GPUs that this machine shows \(0 to 2\) but got \[3\]"):
        Slots.of(study(gpus=[1, 3]))


def test_workers_are_as_many_as_there_are_slots_and_never_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for changes, expected in [({}, 2), ({"workers": 1}, 1), ({"workers": ...}, 2), ({"workers": 9}, 2)]:
        assert Slots.of(study(**changes)).workers(study(**changes)) == expected
    shared = study(workers=..., trials_per_gpu=3)
    assert Slots.of(shared).workers(shared) == 6
    assert Slots.of(shared).gpus_each == pytest.approx(1 / 3)
    assert Slots().workers(study(workers=5)) == 5


@pytest.mark.slow
def test_each_worker_sees_its_own_gpu_and_a_new_one_gets_the_free_slot(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,8")
    stage.more = {"trials_per_gpu": 2}
    stage.workers = 4
    kill = {"kind": "kill", "step": 1, "once": str(tmp_path / "once")}
    specs = [stage.spec(seed, steps=4, step_s=0.1, environment="CUDA_VISIBLE_DEVICES") for seed in range(8)]
    specs.append(stage.spec(9, fault=kill, environment="CUDA_VISIBLE_DEVICES"))
    stage.complete(specs)
    stage.check_done(specs)
    seen = [json.loads(path.read_text()) for path in stage.root.glob("trials/*/attempts/*/environment.json")]
    assert set(seen) == {"5", "8"}
    ledger = Ledger(stage.root / stage.name / "ledger.db", read_only=True)
    given = Counter(event.worker for event in stage.events if event.kind == "started")
    assert len(given) >= 4
    seconds = sum(attempt.seconds or 0.0 for spec in specs for attempt in ledger.attempts(spec.signature))
    used = ledger.used().gpu_seconds
    assert used == pytest.approx(seconds / 2), "half a GPU for each attempt, the lost one too"
    assert used > 8 * 4 * 0.1 / 2 * 0.9


def test_a_machine_without_gpus_leaves_the_environment_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    spec = stage.spec(0, environment="CUDA_VISIBLE_DEVICES")
    stage.complete([spec])
    assert [json.loads(path.read_text()) for path in stage.root.glob("trials/*/attempts/*/environment.json")] == [""]
    assert Ledger(stage.root / stage.name / "ledger.db", read_only=True).used().gpu_seconds == 0


def test_no_more_workers_than_fit_into_memory_and_that_is_said(stage: Stage) -> None:
    assert fitting(8, None) == (8, "")
    assert fitting(8, 2.0, available_gib=16.5) == (8, "")
    assert fitting(8, 2.0, available_gib=7.9) == (3, "3 of 8 workers: 7.9 GiB are free and memory_per_trial_gib is 2.")
    assert fitting(8, 100.0, available_gib=7.9)[0] == 1
    stage.workers, stage.more = 3, {"memory_per_trial_gib": 1e6}
    spec = stage.spec(0)
    stage.complete([spec])
    stage.check_done([spec])
    ledger = Ledger(stage.root / stage.name / "ledger.db", read_only=True)
    assert [event.text[:14] for event in ledger.events() if event.kind == "workers"] == ["1 of 3 workers"]
