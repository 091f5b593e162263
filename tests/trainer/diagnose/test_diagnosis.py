"""Each kind of collapse is found where it was planted, and none where nothing is wrong."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
import torch
import yaml

from trainer.checkpoint import BACKBONE
from trainer.config import from_mapping, leaves, schema, sinkhorn_columns
from trainer.data import load_scans
from trainer.data.phantom import phantom_scan
from trainer.diagnose import Sample, SampleError, diagnose, read_sample, sample_scans
from trainer.diagnose.causes import CAUSES, RESCUE, RESCUE_REFERENCE, RESCUE_SETS, RESCUE_WITHOUT, floor_share
from trainer.diagnose.command import main
from trainer.diagnose.kinds import MEANING
from trainer.trained.network import open_network

N, DIM, K = 240, 48, 64
SCAN = np.arange(N) % 6
RATIO = np.where(np.arange(N) % 5 == 0, 0.0, np.random.default_rng(9).uniform(0.5, 1.0, N))
STUDIES = Path(__file__).parents[3] / "studies"


def noise(seed: int, scale: float = 1.0, dim: int = DIM) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((N, dim))


def direction(seed: int) -> np.ndarray:
    return noise(seed)[0] / np.linalg.norm(noise(seed)[0])


PLANTED: dict[str, Callable[[], np.ndarray]] = {
    "constant": lambda: direction(1) + noise(2, 1e-4),
    "body_against_air": lambda: np.where(RATIO[:, None] > 0.25, direction(1), direction(2)) + noise(3, 0.03),
    "scan_identity": lambda: noise(4)[SCAN] + noise(5, 0.3),
    "one_direction": lambda: direction(1) + noise(6, 0.3, 1) * direction(2) + noise(7, 0.01),
    "few_directions": lambda: noise(8, 1.0, 3)[:, :2] @ noise(9)[:2] + noise(10, 1e-3),
    "none": lambda: noise(11),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_collapse_of_features_is_named(kind: str) -> None:
    found = diagnose(Sample(PLANTED[kind](), ratio=RATIO, scan=SCAN))
    assert found.features == kind
    assert found.prototypes == "undecided"
    assert found.kind == ("undecided" if kind == "none" else kind)
    assert any("features alone" in sentence for sentence in found.undecidable)


@pytest.mark.parametrize("kind", PLANTED)
def test_the_name_depends_on_neither_length_nor_order_of_the_rows(kind: str) -> None:
    order = np.random.default_rng(0).permutation(N)
    features = PLANTED[kind]() * np.random.default_rng(1).uniform(0.5, 2.0, (N, 1))
    assert diagnose(Sample(features[order], ratio=RATIO[order], scan=SCAN[order])).features == kind


@pytest.mark.parametrize(("kind", "missing"), [("body_against_air", "ratio"), ("scan_identity", "scan")])
def test_without_what_explains_them_features_are_not_explained(kind: str, missing: str) -> None:
    known = {"ratio": RATIO, "scan": SCAN}
    del known[missing]
    found = diagnose(Sample(PLANTED[kind](), **known))  # type: ignore[arg-type]
    assert found.features != kind
    assert any(("body share" if missing == "ratio" else "`scan`") in sentence for sentence in found.undecidable)


LOGITS: dict[str, Callable[[], np.ndarray]] = {
    "uniform": lambda: noise(1, 1e-3, K),
    "single_prototype": lambda: 5.0 * (np.arange(K) == 3) + noise(2, 1e-3, K),
    "none": lambda: noise(3, 0.3, K),
}


@pytest.mark.parametrize("kind", LOGITS)
def test_with_logits_the_prototypes_decide_while_features_look_well(kind: str) -> None:
    found = diagnose(Sample(PLANTED["none"](), logits=LOGITS[kind](), ratio=RATIO, scan=SCAN))
    assert (found.prototypes, found.features, found.kind) == (kind, "none", kind)
    assert not any("features alone" in sentence for sentence in found.undecidable)


def test_features_without_logits_never_pass_for_healthy() -> None:
    """The planted error: a uniform head over varied features, of which features alone show nothing."""
    with_logits = diagnose(Sample(PLANTED["none"](), logits=LOGITS["uniform"](), ratio=RATIO, scan=SCAN))
    assert with_logits.kind == "uniform"
    assert diagnose(Sample(PLANTED["none"](), ratio=RATIO, scan=SCAN)).kind == "undecided"


def test_nothing_learned_is_said_as_such() -> None:
    well = {"logits": LOGITS["none"](), "ratio": RATIO, "scan": SCAN}
    same = Sample(PLANTED["none"](), **well, evidence={"local_to_global_mrr": 0.37, "untrained_mrr": 0.36})  # type: ignore[arg-type]
    better = Sample(PLANTED["none"](), **well, evidence={"local_to_global_mrr": 0.47, "untrained_mrr": 0.36})  # type: ignore[arg-type]
    assert (diagnose(same).kind, diagnose(same).learned) == ("nothing_learned", False)
    assert (diagnose(better).kind, diagnose(better).learned) == ("none", True)


def test_causes_are_judged_by_settings_where_they_are_known() -> None:
    sample = Sample(PLANTED["none"](), logits=LOGITS["uniform"](), ratio=RATIO, scan=SCAN, evidence={"air_share": 0.6})
    guessed = diagnose(sample).causes
    assert {cause.state for cause in guessed} == {"to check"}
    settings = from_mapping({"crops.min_global_overlap": 0.3, "crops.localcrops_subset_of_globalcrops": True, "model.layer_scale": 1e-5})
    judged = {cause.setting: cause for cause in diagnose(sample, settings).causes}
    assert judged["model.layer_scale"].state == "likely"
    assert judged["model.layer_scale"].is_now == "1e-05"
    assert judged["crops.min_global_overlap"].state == "unlikely"
    assert judged["crops.foreground_crop_prob"].state == "likely"
    assert "60% of random crops are air" in judged["crops.foreground_crop_prob"].what
    assert [cause.state for cause in diagnose(sample, settings).causes] == sorted(cause.state for cause in judged.values())


@pytest.mark.parametrize(
    ("setting", "value", "kind"),
    [
        ("crops.min_global_overlap", 0.0, "uniform"),
        ("crops.localcrops_subset_of_globalcrops", False, "uniform"),
        ("model.prototypes", 4096, "uniform"),
        ("loss.teacher_temperature", 0.07, "uniform"),
        ("loss.centering", "softmax", "single_prototype"),
        ("loss.teacher_temperature", 0.01, "single_prototype"),
        ("model.weight_norm", False, "uniform"),
        ("model.feature_norm", "none", "uniform"),
        ("loop.ema", 0.9, "uniform"),
        ("loop.lr", 0.1, "uniform"),
    ],
)
def test_a_planted_cause_is_found_and_is_none_where_the_setting_is_well(setting: str, value: object, kind: str) -> None:
    well = {"crops.min_global_overlap": 0.3, "crops.localcrops_subset_of_globalcrops": True, "loss.koleo_weight": 0.1}
    sample = Sample(PLANTED["none"](), logits=LOGITS[kind](), ratio=RATIO, scan=SCAN, evidence={"air_share": 0.0})

    def likely(**more: object) -> set[str]:
        return {cause.setting for cause in diagnose(sample, from_mapping({**well, **more})).causes if cause.state == "likely"}

    said = "loss.sinkhorn_queue" if setting == "model.prototypes" else setting
    assert likely() == set()
    assert likely(**{setting: value}) == {said}


def test_every_cause_names_a_setting_a_kind_and_a_study_that_exist() -> None:
    settings = leaves(schema())
    for cause in CAUSES:
        assert cause.setting in settings
        assert cause.kinds <= MEANING.keys()
        assert (STUDIES.parent / cause.study).is_file()
    collapses = MEANING.keys() - {"none", "undecided"}
    assert collapses == {kind for cause in CAUSES for kind in cause.kinds}


def test_the_rescue_study_sets_of_the_backbone_what_is_said_here() -> None:
    study = yaml.safe_load((STUDIES.parent / RESCUE).read_text())
    assert set(study["baseline"]) & set(BACKBONE) == set(RESCUE_SETS)
    *path, name = RESCUE_WITHOUT.removesuffix("={}").split(".")
    assert path == ["phases", "needed", "components"]
    (phase,) = [phase for phase in study["phases"] if phase["name"] == "needed"]
    assert set(phase["components"][name]) <= set(BACKBONE)
    assert [f"references.untrained.{path}" for path in study["references"]["untrained"] if path in BACKBONE] == [RESCUE_REFERENCE]
    assert not any(set(bundle) & set(BACKBONE) for other, bundle in phase["components"].items() if other != name)


def test_columns_count_whole_steps_of_the_queue() -> None:
    settings = from_mapping({"loop.batch_size": 16, "loss.sinkhorn_queue": 40, "model.prototypes": 96})
    assert sinkhorn_columns(settings) == 32 + 64
    assert floor_share(settings) == 0.0
    settings.model.prototypes = 960
    assert floor_share(settings) == pytest.approx(np.log(10) / np.log(960))


def test_features_in_files_are_read_whatever_the_format(tmp_path: Path) -> None:
    features, logits = PLANTED["scan_identity"](), LOGITS["none"]()
    names = np.array([f"scan {s}" for s in SCAN])
    np.save(tmp_path / "a.npy", features)
    np.savez(tmp_path / "b.npz", features=features, logits=logits, foreground_ratio=RATIO, scan=names, other=np.ones(3))
    columns = {"features": list(features), "logits": list(logits), "foreground_ratio": RATIO, "scan": names}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    assert diagnose(read_sample(tmp_path / "a.npy")).prototypes == "undecided"
    for name in ("b.npz", "c.parquet"):
        found = read_sample(tmp_path / name)
        assert np.allclose(found.features, features)
        assert diagnose(found).kind == "scan_identity"


def test_pickled_objects_in_a_file_of_features_are_not_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", features=np.array([Trap()], dtype=object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(SampleError, match="cannot be read"):
            read_sample(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": noise(1)[:, :1]}, "rows of at least 2 numbers"),
        ({"features": np.where(np.arange(N)[:, None] < 3, np.nan, noise(1))}, "3 of 240 rows hold NaN"),
        ({"scan": SCAN[:7]}, "scan: expected 240 rows, as many as features, but got 7"),
        ({"ratio": RATIO * 100}, "foreground_ratio: expected shares between 0 and 1"),
        ({"logits": LOGITS["none"]()[:5]}, "logits: expected 240 rows"),
    ],
)
def test_rows_that_do_not_fit_are_all_named(change: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(SampleError, match=said):
        Sample(**{"features": noise(1), "ratio": RATIO, "scan": SCAN, **change})  # type: ignore[arg-type]


def test_our_checkpoint_is_read_on_its_scans(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = open_network(tiny_run, {}, which="student")
    sample = sample_scans(network, load_scans(network.config)[:3])
    assert set(np.unique(sample.scan)) == {0, 1, 2}
    assert sample.logits is not None
    shares = ("local_to_global_mrr", "untrained_mrr", "chance_mrr", "air_share", "disjoint_share", "random_iou", "clipped_share")
    assert sample.evidence.keys() == set(shares)
    assert all(0 <= sample.evidence[name] <= 1 for name in shares)
    assert sample.evidence["chance_mrr"] == pytest.approx(sum(1 / r for r in range(1, 9)) / 8)
    assert main([str(tiny_run), "phantom", "--scans", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["network"].startswith("student of ")
    assert said["kind"] in MEANING
    assert {cause["state"] for cause in said["causes"]} <= {"likely", "unlikely"}


def test_shares_of_random_crops_are_those_of_a_count(tiny_run: Path) -> None:
    network = open_network(tiny_run, {})
    scan = load_scans(network.config)[0]
    found = sample_scans(network, [scan]).evidence
    rng = np.random.default_rng(3)
    ious = []
    for _ in range(400):
        grids = [np.zeros(scan.voxels.shape, bool) for _ in range(2)]
        for grid in grids:
            d, h, w = rng.integers(np.array(scan.voxels.shape) - 12 + 1)
            grid[d : d + 12, h : h + 12, w : w + 12] = True
        ious.append((grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum())
    assert found["random_iou"] == pytest.approx(np.mean(ious), abs=0.02)
    assert found["disjoint_share"] == pytest.approx(np.mean(np.array(ious) == 0), abs=0.08)


def test_the_text_names_the_kind_the_causes_and_what_to_run(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = torch.load(tiny_run / "checkpoint.pt", weights_only=True)
    for net in ("student", "teacher"):
        held["state"]["learner"][net]["dino_head.prototypes"].fill_(1.0)  # all prototypes the same: uniform, whatever the crop
    torch.save(held, tmp_path / "checkpoint.pt")
    assert main([str(tmp_path), "phantom", "--scans", "2"]) == 0
    said = capsys.readouterr().out
    assert "uniform: every crop spreads over all prototypes alike" in said
    assert "Likely causes, by its own settings:\n  crops.min_global_overlap: 0.3 (is 0.0)   studies/collapse.yaml" in said
    assert "  ablate run studies/collapse.yaml study=my_collapse\n" in said
    start = (
        f"trainer.preset=phantom_cpu loop.start_from={tmp_path / 'checkpoint.pt'} baseline.model.patch_size_voxels=3 baseline.model.dim=12"
    )
    assert start in said
    folder = tmp_path / "ct scans"
    folder.mkdir()
    image = sitk.GetImageFromArray(phantom_scan("torso", 32, 15.0, 15.0, 0, 0)[0])
    image.SetSpacing([2.0, 2.0, 2.0])
    sitk.WriteImage(image, str(folder / "a.nii.gz"))
    own = [f"data.cache_dir={tmp_path}/cache", "data.window_high_hu=300", "measure.crops_per_scan=8"]
    assert main([str(tmp_path), str(folder), *own]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if "ablate run studies/collapse.yaml" in line]
    assert lines[0][3:] == ["study=my_collapse", f"data.source={folder}", "trainer.preset=ct_cpu"]
    assert lines[1][3:7] == ["study=cure_collapse", f"data.source={folder}", "data.window_high_hu=300.0", "trainer.preset=phantom_cpu"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}"], "expected scans to read it on"),
        (["{run}", "phantom", "--scans", "0"], "--scans: expected at least 1"),
        (["f.parquet"], "expected a file of features but there is none"),
        (["missing.pth", "phantom"], "no such file"),
        (["{run}", "phantom", "measure.foreground_threshold=2500"], "measure.rich_ratio: expected at least two crops"),
    ],
)
def test_bad_calls_say_their_mend(tiny_run: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main([word.replace("{run}", str(tiny_run)) for word in words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_really_trained_networks_are_told_apart(tmp_path: Path) -> None:
    """The preset's collapsing baseline and its healthy arm, 60 steps each."""
    from trainer.train import train

    class Silent:
        def __init__(self, directory: Path) -> None:
            directory.mkdir()
            self.directory = directory

        def report(self, step: int, metrics: object) -> bool:
            return True

    healthy = {"crops.min_global_overlap": 0.3, "crops.localcrops_subset_of_globalcrops": True}
    kinds = {}
    for name, changes in (("baseline", {}), ("healthy", healthy)):
        train({"measure.record_crops": False, "loop.steps": 60, **changes}, Silent(tmp_path / name))
        network = open_network(tmp_path / name, {}, which="student")
        found = diagnose(sample_scans(network, load_scans(network.config)[:6]), network.config)
        kinds[name] = (found.kind, found.learned, {cause.setting for cause in found.causes if cause.state == "likely"})
    views = {"crops.min_global_overlap", "crops.localcrops_subset_of_globalcrops"}
    assert kinds == {"baseline": ("uniform", False, views), "healthy": ("none", True, set())}
