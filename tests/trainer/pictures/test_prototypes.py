"""What prototypes hold: planted networks that tell crops apart, that are uniform, that know one prototype only."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.config import TrainerConfig
from trainer.data import load_scans
from trainer.measure import Probe
from trainer.measure.yardstick import ScanProbe
from trainer.pictures import PrototypeUse, draw_prototypes, prototype_use

PROTOTYPES = 16


def settings() -> TrainerConfig:
    config = TrainerConfig()
    config.data.phantom.scans, config.data.phantom.size_voxels = 4, 40
    config.crops.global_size_voxels, config.crops.local_size_voxels = 12, 6
    config.measure.crops_per_scan, config.measure.background_crops_per_scan = 12, 4
    return config


@pytest.fixture(scope="module")
def probe() -> tuple[ScanProbe, ...]:
    return Probe(load_scans(settings()), range(2), settings()).scans


def brightness(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(1, 2, 3, 4))


def sorting(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By brightness: the prototype whose place in [-1, 1] is nearest."""
    places = np.linspace(-1, 1, PROTOTYPES)
    return images[:, 0, 0, 0], -np.abs(brightness(images)[:, None] - places[None]).astype(np.float32)


def uniform(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All prototypes alike, but for what decides the likeliest one: a collapse that usage alone does not show."""
    return images[:, 0, 0, 0], 1e-3 * sorting(images)[1]


def single(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = np.zeros((len(images), PROTOTYPES), np.float32)
    logits[:, 5] = 2.0
    return images[:, 0, 0, 0], logits


def test_the_use_equals_what_counting_one_by_one_finds(probe: tuple[ScanProbe, ...]) -> None:
    use = prototype_use(probe, sorting, settings())
    images = np.concatenate([scan.globals for scan in probe])
    ratio = np.concatenate([scan.ratio for scan in probe])
    logits = sorting(images)[1].astype(float) / settings().measure.temperature
    held: dict[int, list[int]] = {}
    entropies = []
    for n, row in enumerate(logits):
        weights = [math.exp(value) for value in row]
        entropies.append(-sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights) / math.log(PROTOTYPES))
        held.setdefault(int(np.argmax(row)), []).append(n)
    assert [len(held.get(int(k), [])) / len(logits) for k in use.order] == pytest.approx(use.share.tolist())
    assert use.share.tolist() == sorted(use.share.tolist(), reverse=True)
    for place, k in enumerate(use.order.tolist()):
        own = held.get(k, [])
        assert sorted(np.flatnonzero(use.own(place)).tolist()) == own
        if own:
            assert use.foreground[place] == pytest.approx(np.mean(ratio[own]))
        else:
            assert np.isnan(use.foreground[place])
    taken, crops = 0, 0
    while crops < 0.9 * len(logits):
        crops += sorted(map(len, held.values()), reverse=True)[taken]
        taken += 1
    assert use.held_by == taken
    assert use.entropy == pytest.approx(np.mean(entropies))
    assert f"{taken} of {PROTOTYPES} prototypes hold 90% of {len(logits)} held-out crops" in use.title()


def test_the_nearest_crops_are_its_own_by_probability_then_others(probe: tuple[ScanProbe, ...]) -> None:
    use = prototype_use(probe, sorting, settings())
    own = int(use.own(1).sum())
    found = use.nearest(1, len(use.ratio))
    nearness = use.probs[found, use.order[1]]
    assert use.own(1)[found[:own]].all()
    assert not use.own(1)[found[own:]].any()
    assert (np.diff(nearness[:own]) <= 0).all()
    assert (np.diff(nearness[own:]) <= 0).all()
    assert sorted(found.tolist()) == list(range(len(use.ratio)))


def test_a_collapse_is_named_in_the_title_and_one_that_is_none_is_not(probe: tuple[ScanProbe, ...]) -> None:
    healthy, flat, one = (prototype_use(probe, network, settings()) for network in (sorting, uniform, single))
    assert healthy.kind == "none"
    assert "ollapse" not in healthy.title()
    assert flat.title() == f"Uniform collapse: every crop spreads over all {PROTOTYPES} prototypes alike"
    assert flat.share[0] < 0.9, "by usage alone it looks healthy"
    assert one.title() == f"Collapse onto one prototype: it holds 100% of {len(one.ratio)} held-out crops"
    assert "0.00 nats" in one.description()
    assert "15 none" in one.description()


def test_the_profiles_of_a_uniform_network_stay_on_the_dashed_line(probe: tuple[ScanProbe, ...]) -> None:
    """What is seen at once: tall bars or none. Pixels of bars above the line, in the frame of the first prototype's profile."""
    tall = {}
    for name, network in (("sorting", sorting), ("uniform", uniform)):
        use = prototype_use(probe, network, settings())
        pixels = np.asarray(draw_prototypes(use, probe, settings()).convert("RGB")).astype(int)
        frame = pixels[222:290, 156:366]
        tall[name] = int((frame.max(axis=2) > 120).sum())
    assert tall["sorting"] > 3 * max(tall["uniform"], 1)


def test_a_single_prototype_has_one_row_and_the_picture_is_small_and_always_the_same(probe: tuple[ScanProbe, ...]) -> None:
    def drawn(network: object) -> tuple[PrototypeUse, np.ndarray]:
        use = prototype_use(probe, network, settings())  # type: ignore[arg-type]
        return use, np.asarray(draw_prototypes(use, probe, settings()))

    one, many = drawn(single)[1], drawn(sorting)[1]
    assert len(one) < len(many) / 2
    assert np.array_equal(many, drawn(sorting)[1])


def test_many_prototypes_and_few_crops_fit(probe: tuple[ScanProbe, ...]) -> None:
    def wide(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = np.zeros((len(images), 70_000), np.float32)
        logits[np.arange(len(images)), np.arange(len(images)) * 31] = 3.0
        return images[:, 0, 0, 0], logits

    use = prototype_use(probe[:1], wide, settings())
    assert draw_prototypes(use, probe[:1], settings()).width < 1300


def test_outputs_that_are_not_finite_are_refused(probe: tuple[ScanProbe, ...]) -> None:
    with pytest.raises(ValueError, match="finite logits"):
        prototype_use(probe, lambda images: (images, np.full((len(images), 4), np.nan)), settings())
