"""A whole trial on a tiny phantom: measures, artifacts, resuming to the bit, and the ways it may end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from trainer import checkpoint
from trainer.__main__ import main
from trainer.config import CHECKPOINT, ConfigError, from_mapping
from trainer.train import NonFiniteLoss, train

TINY: dict[str, object] = {
    "data.phantom.size_voxels": 32,
    "data.phantom.scans": 6,
    "data.rotate_split_below": 0,
    "crops.global_size_voxels": 12,
    "crops.local_size_voxels": 6,
    "crops.local_crops": 2,
    "model.patch_size_voxels": 3,
    "model.dim": 12,
    "model.depth": 1,
    "model.heads": 2,
    "model.head_hidden": 16,
    "model.bottleneck": 8,
    "model.prototypes": 8,
    "loop.steps": 12,
    "loop.warmup_steps": 2,
    "loop.batch_size": 4,
    "loop.checkpoint_every_steps": 4,
    "measure.every_steps": 1,
    "measure.crops_per_scan": 4,
    "measure.background_crops_per_scan": 2,
}
CLOCK = (
    "loop/steps_per_second",
    "loop/samples_per_second",
    "loop/data_fraction",
    "loop/model_flop_utilisation",
    "loop/peak_memory_gib",
)


class Recorder:
    """A run that keeps what it is told and may ask to stop."""

    def __init__(self, directory: Path, stop_at: int | None = None, kill_at: int | None = None) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.stream: dict[int, dict[str, float]] = {}
        self._stop_at, self._kill_at = stop_at, kill_at

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        if step == self._kill_at:
            raise SystemExit("killed")
        self.stream[step] = without_clock(metrics)
        return step != self._stop_at


def without_clock(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in CLOCK}


def weights_in(directory: Path, config: Mapping[str, object]) -> dict[str, torch.Tensor]:
    state = checkpoint.load(directory, from_mapping(config), torch.device("cpu"))
    assert state is not None
    learner = state["learner"]
    return {f"{net}.{name}": value for net in ("student", "teacher") for name, value in learner[net].items()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, dict[str, float]]:
    run = Recorder(tmp_path_factory.mktemp("straight"))
    return run, train(TINY, run)


def test_a_trial_reports_every_measuring_step_and_probes_at_rungs_and_the_end(straight: tuple[Recorder, dict[str, float]]) -> None:
    run, result = straight
    assert list(run.stream) == list(range(1, 13))
    assert [step for step, metrics in run.stream.items() if "probe/local_to_global_mrr" in metrics] == [6, 12]
    assert without_clock(result) == run.stream[12]
    assert {name.split("/")[0] for name in result} == {"train", "probe", "loop"}
    assert result["loop/updates_applied"] == 1.0
    assert 0 <= result["loop/data_fraction"] <= 1
    assert result["loop/steps_per_second"] > 0
    assert result["train/unmatched_locals"] == 0.0


def test_a_trial_leaves_its_crops_its_gallery_and_its_summary(straight: tuple[Recorder, dict[str, float]]) -> None:
    run, _ = straight
    assert pq.read_table(run.directory / "crops.parquet").num_rows == 12 * 4 * 4
    assert (run.directory / "gallery.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((run.directory / "summary.json").read_text())
    assert summary["collapse"] in ("none", "uniform", "single_prototype", "partial")
    assert summary["stopped"] is None
    assert sum(len(names) for names in summary["scans"].values()) == 6
    assert sorted(path.name for path in run.directory.iterdir()) == [
        "checkpoint.pt",
        "crops.parquet",
        "gallery.png",
        "patches.png",
        "prototypes.png",
        "summary.json",
    ]


@pytest.mark.parametrize(
    "extra", [{}, {"loss.matching": "hierarchical", "loss.centering": "softmax", "loss.foreground_weighting": "linear"}]
)
def test_an_interrupted_trial_ends_as_an_uninterrupted_one_to_the_bit(
    extra: dict[str, object], straight: tuple[Recorder, dict[str, float]], tmp_path: Path
) -> None:
    config = TINY | extra
    run, result = straight
    if extra:
        run = Recorder(tmp_path / "straight")
        result = train(config, run)
    stopped = Recorder(tmp_path / "interrupted", stop_at=5)
    told = train(config, stopped)
    assert without_clock(told) == stopped.stream[5]
    assert not (stopped.directory / "summary.json").exists()
    resumed = Recorder(tmp_path / "interrupted")
    again = train(config, resumed)
    assert list(resumed.stream) == list(range(6, 13))
    assert stopped.stream | resumed.stream == run.stream
    assert without_clock(again) == without_clock(result)
    expected, found = weights_in(run.directory, config), weights_in(resumed.directory, config)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert pq.read_table(run.directory / "crops.parquet").equals(pq.read_table(resumed.directory / "crops.parquet"))


@pytest.mark.parametrize("step", [1, 7, 12])
def test_a_killed_trial_goes_on_from_its_last_checkpoint_to_the_same_end(
    step: int, straight: tuple[Recorder, dict[str, float]], tmp_path: Path
) -> None:
    run, result = straight
    killed = Recorder(tmp_path, kill_at=step)
    with pytest.raises(SystemExit):
        train(TINY, killed)
    resumed = Recorder(tmp_path)
    assert without_clock(train(TINY, resumed)) == without_clock(result)
    assert killed.stream | resumed.stream == run.stream


def test_a_finished_trial_run_again_gives_the_same_result(straight: tuple[Recorder, dict[str, float]]) -> None:
    run, result = straight
    again = Recorder(run.directory)
    assert without_clock(train(TINY, again)) == without_clock(result)
    assert list(again.stream) == [12]


def test_a_lost_optimizer_state_would_not_pass_for_a_resume(straight: tuple[Recorder, dict[str, float]], tmp_path: Path) -> None:
    """The planted error: the comparison above must see a resume that forgets the optimizer."""
    _, result = straight
    train(TINY, Recorder(tmp_path, stop_at=5))
    path = tmp_path / CHECKPOINT
    content = torch.load(path, weights_only=True)
    content["state"]["learner"]["optimizer"]["state"] = {}
    torch.save(content, path)
    assert without_clock(train(TINY, Recorder(tmp_path))) != without_clock(result)


def test_the_untrained_network_is_calibrated_and_probed_and_nothing_else(tmp_path: Path) -> None:
    config = TINY | {"loop.steps": 0}
    run = Recorder(tmp_path)
    result = train(config, run)
    assert list(run.stream) == [0]
    assert "probe/local_to_global_mrr" in result
    assert not any(name.startswith("loop/") for name in result)
    weights = weights_in(tmp_path, config)
    assert weights["student.dino_head.norm.batches"] == 4
    again = train(config, Recorder(tmp_path))
    assert without_clock(again) == without_clock(result), "killed after its checkpoint and before its result, it is not calibrated twice"
    trained = weights_in_at_start(tmp_path / "other")
    assert torch.equal(weights["student.backbone.patch_embedding.weight"], trained)


def weights_in_at_start(directory: Path) -> torch.Tensor:
    from trainer.model import build

    directory.mkdir()
    return build(from_mapping(TINY)).backbone.patch_embedding.weight.detach()


@pytest.mark.parametrize("matching", ["foreground_only", "hierarchical"])
def test_batches_without_any_pair_are_counted_as_not_applied(matching: str, tmp_path: Path) -> None:
    config = TINY | {"loss.matching": matching, "loss.matching_threshold": 1.0, "crops.foreground_threshold": 3000, "loop.steps": 4}
    before = weights_in_at_start(tmp_path / "start")
    result = train(config, Recorder(tmp_path))
    weights = weights_in(tmp_path, config)
    if matching == "foreground_only":
        assert result["loop/updates_applied"] == 0.0
        assert torch.equal(weights["student.backbone.patch_embedding.weight"], before)
        assert result["train/unmatched_locals"] == 1.0
    else:
        assert result["loop/updates_applied"] == 1.0
        assert result["train/unmatched_locals"] == 0.0


def test_a_loss_that_is_not_finite_ends_the_trial_and_keeps_the_state_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.step import objective

    real = objective.pair_losses
    calls = iter(range(100))
    monkeypatch.setattr(objective, "pair_losses", lambda *a, **k: real(*a, **k) * (float("nan") if next(calls) == 6 else 1.0))
    run = Recorder(tmp_path)
    with pytest.raises(
        NonFiniteLoss, match=r"step 6 of 12: expected a finite loss and gradient but the loss is nan\. The state before it is kept"
    ):
        train(TINY, run)
    assert list(run.stream) == [1, 2, 3, 4, 5, 6]
    state = checkpoint.load(tmp_path, from_mapping(TINY), torch.device("cpu"))
    assert state is not None
    assert state["progress"]["step"] == 6
    assert all(torch.isfinite(value).all() for value in weights_in(tmp_path, TINY).values())


def test_weights_that_overflowed_never_replace_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = TINY | {"loop.lr": 10.0, "loop.weight_decay": 10.0, "loop.weight_decay_end": 10.0, "loop.clip_norm": 0.0}
    with suppress(NonFiniteLoss):
        train(config, Recorder(tmp_path))
    assert all(torch.isfinite(value).all() for value in weights_in(tmp_path, config).values())


def test_a_certain_collapse_ends_the_trial_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer import train as loop

    monkeypatch.setattr(loop, "certain_collapse", lambda history, step, steps: "it is certain" if len(history) == 7 else None)
    config = TINY | {"loop.stop_on_collapse": True}
    stopped = Recorder(tmp_path, stop_at=4)
    train(config, stopped)
    run = Recorder(tmp_path)
    result = train(config, run)
    assert list(run.stream) == [5, 6, 7]
    assert "probe/local_to_global_mrr" in result
    assert json.loads((tmp_path / "summary.json").read_text())["stopped"] == "it is certain"
    again = Recorder(tmp_path)
    train(config, again)
    assert list(again.stream) == [7]


def test_a_directory_of_another_configuration_is_refused(straight: tuple[Recorder, dict[str, float]]) -> None:
    run, _ = straight
    with pytest.raises(checkpoint.CheckpointError, match=r"loop\.lr was"):
        train(TINY | {"loop.lr": 0.1}, run)


def test_wrong_settings_are_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        train(TINY | {"loop.stepz": 3, "model.dim": "wide"}, Recorder(tmp_path))
    assert "Did you mean loop.steps?" in str(error.value)
    assert "model.dim" in str(error.value)


def test_replicates_differ_and_equal_replicates_are_equal(straight: tuple[Recorder, dict[str, float]], tmp_path: Path) -> None:
    _, result = straight
    assert without_clock(train(TINY, Recorder(tmp_path / "same"))) == without_clock(result)
    assert without_clock(train(TINY | {"seed": 1}, Recorder(tmp_path / "other"))) != without_clock(result)


def arguments(out: Path) -> list[str]:
    return [f"{name}={value}" for name, value in TINY.items()] + [f"out={out}"]


def test_the_command_trains_and_prints_its_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(tmp_path), "loop.steps=3", "loop.warmup_steps=0"]) == 0
    printed = capsys.readouterr().out
    assert "step 3/3" in printed
    assert "probe/local_to_global_mrr" in printed
    assert '"collapse"' in printed


def test_the_command_refuses_wrong_settings_with_their_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loop.stepz=3", f"out={tmp_path}"]) == 2
    assert "loop.stepz: no such setting. Did you mean loop.steps?" in capsys.readouterr().err


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.__main__ import Terminal

    real = Terminal.report

    def report_and_interrupt(self: Terminal, step: int, metrics: Mapping[str, float]) -> bool:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, step, metrics)

    monkeypatch.setattr(Terminal, "report", report_and_interrupt)
    before = signal.getsignal(signal.SIGINT)
    assert main(arguments(tmp_path)) == 3
    assert signal.getsignal(signal.SIGINT) == before
    assert f"out={tmp_path}" in capsys.readouterr().out
    assert main(arguments(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "step 4/12" in printed
    assert "step 1/12" not in printed


@pytest.mark.parametrize("words", [["--help"], ["out={folder}/run", *(f"{path}={value}" for path, value in TINY.items())]])
def test_who_stops_reading_ends_it_without_a_word(tmp_path: Path, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    asked = [sys.executable, "-m", "trainer", *(word.format(folder=tmp_path) for word in words)]
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(asked, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_terminal_says_a_collapse_once_and_when_it_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trainer.__main__ import Terminal

    uniform = {
        "train/prototype_entropy": 0.999,
        "train/marginal_entropy": 0.999,
        "train/mutual_information": 0.001,
        "train/collapse_since_step": 10.0,
    }
    healthy = {"train/prototype_entropy": 0.8, "train/marginal_entropy": 0.9, "train/mutual_information": 0.5}
    terminal = Terminal(tmp_path, 100)
    for step, metrics in enumerate([uniform] * 5 + [healthy] * 3):
        terminal.report(5 * step, metrics)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("alarm")]
    assert len(said) == 2
    assert said[0].startswith("alarm: collapse since step 10: uniform on the crops trained on")
    assert said[1] == "alarm: over"


def test_help_lists_presets_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "phantom_cpu" in printed
    assert "crops.min_global_overlap=0.0" in printed


def test_two_processes_leave_what_one_leaves(tmp_path: Path) -> None:
    """The same measures, the same crops on record in the same order, one checkpoint, one summary."""
    config = TINY | {"loop.steps": 4, "loop.checkpoint_every_steps": 2, "loss.ibot_weight": 1.0}
    words = [f"{name}={value}" for name, value in config.items()]
    alone, together = tmp_path / "alone", tmp_path / "together"
    expected = train(config, Recorder(alone))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", "trainer", *words, f"out={together}"]
        environment = os.environ | place | {"OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"))
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert [process.returncode for process in processes] == [0, 0], said
    assert "probe/local_to_global_mrr" in said[0]
    assert "probe/" not in said[1]
    one, two = (pq.read_table(directory / "crops.parquet") for directory in (alone, together))
    for name in one.column_names:
        if name != "loss":
            assert one.column(name).equals(two.column(name)), name
    torch.testing.assert_close(weights_in(together, config), weights_in(alone, config), atol=1e-5, rtol=1e-4)
    found = json.loads((together / "summary.json").read_text())
    assert found["collapse"] == json.loads((alone / "summary.json").read_text())["collapse"]
    assert train(config, Recorder(together))["probe/local_to_global_mrr"] == pytest.approx(expected["probe/local_to_global_mrr"], abs=1e-3)


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer import train as loop

    monkeypatch.setattr(loop, "ranks", lambda: 3)
    with pytest.raises(ConfigError, match=r"loop.batch_size: expected a multiple of the 3 processes but got 4"):
        loop.check_ranks(from_mapping(TINY))


def test_several_processes_need_one_directory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["loop.steps=0"]) == 2
    assert "out: several processes" in capsys.readouterr().err
