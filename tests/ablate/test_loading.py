from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ablate.design import expand
from ablate.errors import StudyError
from ablate.loading import load, overrides, study_name
from ablate.loading.reading import parse, parse_value
from ablate.study import Range, Study, Tune

STUDIES = Path(__file__).parents[2] / "studies"

DESIGN_6 = """
study: collapse
question: Which change stops DINO-3D from collapsing to uniform prototypes on CT?
trainer: {callable: "trainer.train:train", schema: "trainer.config:schema", preset: phantom_cpu}
baseline:                                  # the settings under which the collapse was seen
  crops.foreground_threshold: 500
  crops.foreground_crop_prob: 0.0
  crops.min_foreground_ratio: 0.3
  crops.localcrops_subset_of_globalcrops: false
references: {untrained: {loop.steps: 0}}
objective: {metric: probe/local_to_global_mrr, direction: maximize, smallest_effect: 0.02}
guards:
  - {metric: probe/foreground_mutual_information, at_least: 0.2}   # nats: not uniform
  - {metric: probe/marginal_entropy, at_least: 0.5}                # share of ln K: not one prototype
  - {metric: loop/updates_applied, at_least: 0.95}                 # it trained at all
replicates: {start: 4, at_most: 6}
budget: {trials: 160, hours: 2}
phases:
  - name: flags                            # Phase 1
    design: factorial
    set: {crops.foreground_threshold: -500, crops.min_foreground_ratio: 0.5}   # for every arm but the baseline
    factors:
      crops.foreground_crop_prob: [0.0, 1.0]
      crops.localcrops_subset_of_globalcrops: [false, true]
      crops.min_global_overlap: [0.0, 0.3]
    gate: {advance_if: any_adopted}
  - name: weighting                        # Phase 2, on top of the winner of Phase 1
    design: one_at_a_time
    factors:
      loss.foreground_weighting: [none, linear, squared, threshold]
      loss.matching: [all_pairs, hierarchical, foreground_only, background_prototype]
  - name: thresholds                       # Phase 3, tuned
    design: {tune: 12, sampler: tpe}
    set: {crops.foreground_crop_prob: 1.0}   # makes the thresholds live; the tuned point competes with the carried winner
    factors:
      crops.foreground_threshold: {low: -700, high: 300}
      crops.min_foreground_ratio: {low: 0.2, high: 0.9}
      loss.matching_threshold: {low: 0.1, high: 0.9, when: {loss.matching: [hierarchical, foreground_only]}}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def edited(folder: Path, *changes: tuple[str, str]) -> Path:
    """The study of DESIGN section 6 with texts replaced; each must be there."""
    text = DESIGN_6
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return written(folder, text)


def problems_of(path: Path, *changes: str) -> list[str]:
    with pytest.raises(StudyError) as caught:
        load(path, changes)
    text = str(caught.value)
    jargon = ("pydantic", "input should", "extra_forbidden", "literal[", "union", "Input", "dict_type", "function-after", "nullable")
    assert not [word for word in jargon if word in text], text
    count = len(caught.value.problems)
    assert text.splitlines()[0] == f"{path} has {count} problem{'s' if count != 1 else ''}:"
    return list(caught.value.problems)


def test_the_study_of_the_design_loads_as_written_there(tmp_path: Path) -> None:
    study = load(written(tmp_path, DESIGN_6))
    assert [phase.name for phase in study.phases] == ["flags", "weighting", "thresholds"]
    assert study.phases[2].design == Tune(tune=12, sampler="tpe")
    assert study.phases[2].factors["crops.foreground_threshold"] == Range(low=-700, high=300)
    assert len(expand(study.phases[0], study.baseline)) == 9
    assert [question.metric for question in study.questions][-1] == "probe/local_to_global_mrr"
    assert "probe/foreground_mutual_information" in study.columns


def test_the_baseline_comes_back_with_every_setting_that_a_phase_touches(tmp_path: Path) -> None:
    baseline = load(written(tmp_path, DESIGN_6)).baseline
    assert baseline["crops.foreground_threshold"] == 500
    assert isinstance(baseline["crops.foreground_threshold"], float)
    assert baseline["loss.matching"] == "all_pairs"
    assert baseline["crops.min_global_overlap"] == 0.0
    assert (
        baseline["loss.matching_threshold"]
        == load(written(tmp_path, DESIGN_6), ["loss.matching_threshold=0.3"]).baseline["loss.matching_threshold"]
    )


def test_a_level_that_is_the_trainers_own_value_makes_no_second_arm(tmp_path: Path) -> None:
    study = load(written(tmp_path, DESIGN_6))
    names = [arm.name for arm in expand(study.phases[1], study.baseline)]
    assert "foreground_weighting=none" not in names
    assert len(names) == 7


def test_the_two_problems_of_the_style_guide_read_as_it_shows_them(tmp_path: Path) -> None:
    path = edited(tmp_path, ("crops.foreground_crop_prob: [", "crops.foreground_crop_probability: ["), ("start: 4", "start: 1"))
    with pytest.raises(StudyError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path} has 2 problems:\n"
        "  phases[0].factors.crops.foreground_crop_probability: no such setting in trainer.config. "
        "Did you mean crops.foreground_crop_prob?\n"
        "  replicates.start: expected a whole number of at least 3 but got 1. An interval from fewer pairs says nothing."
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("objective:", "objectiv:", "objectiv: no such key. Did you mean objective?"),
        ("objective:", "objectiv:", "objective: expected a mapping with metric, direction, smallest_effect but it is missing. Add it."),
        (
            "sampler: tpe",
            "sampler: tpee",
            "phases[2].design.sampler: expected one of tpe, gp, qmc, cmaes, nsga2, grid, random but got 'tpee'. Did you mean tpe?",
        ),
        (
            "design: factorial",
            "design: factoral",
            "phases[0].design: expected one of factorial, one_at_a_time, add_one_in, leave_one_out, path or {tune: POINTS} "
            "but got 'factoral'. Did you mean factorial?",
        ),
        ("tune: 12", "tune: many", "phases[2].design.tune: expected a whole number of at least 2 and at most 10000 but got 'many'."),
        (
            "any_adopted",
            "any_adoptd",
            "phases[0].gate.advance_if: expected one of always, any_adopted, none_adopted or {solved: VALUE} but got 'any_adoptd'. "
            "Did you mean any_adopted?",
        ),
        (
            "{advance_if: any_adopted}",
            "{advance_if: {solved: high}}",
            "phases[0].gate.advance_if.solved: expected a number but got 'high'.",
        ),
        (
            "{advance_if: any_adopted}",
            "{otherwise: threshold}",
            "phases[0].gate.otherwise: expected one of the later phases weighting, thresholds but got 'threshold'. "
            "Did you mean thresholds?",
        ),
        ("name: weighting", "name: flags", "phases[1].name: phases[0] is named 'flags' too. Give each phase its own name."),
        (
            "name: weighting",
            "name: references",
            "phases[1].name: 'references' is the name of the study's references in the ledger. Choose another.",
        ),
        ("name: weighting", "name: my phase", "phases[1].name: expected a name of letters"),
        ("untrained:", "baseline:", "references.baseline: the reference arm has this name. Choose another."),
        ("smallest_effect: 0.02", "smallest_effect: 0", "objective.smallest_effect: expected a number above 0 but got 0."),
        (", at_least: 0.5}", "}", "guards[1]: expected at_least or at_most (or both). Add the bound that an arm must respect."),
        (
            "{metric: probe/marginal_entropy, at_least: 0.5}",
            "{metric: probe/local_to_global_mrr, at_most: 0.5}",
            "guards[1].at_most: forbids what the objective asks for: more of probe/local_to_global_mrr is better. "
            "Take it out, or turn the direction.",
        ),
        ("at_most: 6", "at_most: 3", "replicates.at_most: expected at least start=4 but got 3."),
        ("hours: 2", "hours: .inf", "budget.hours: expected a finite number but got inf."),
        ("false, true]", "false, no]", "phases[0].factors.crops.localcrops_subset_of_globalcrops[1]: expected true or false but got 'no'."),
        ("[0.0, 0.3]", "[0.0, 1.3]", "phases[0].factors.crops.min_global_overlap[1]: expected a number from 0 to 1 but got 1.3."),
        ("[0.0, 0.3]", "[0.0, 0]", "phases[0].factors.crops.min_global_overlap[1]: 0 stands twice. Keep one of them."),
        ("[0.0, 0.3]", "[0.3]", "phases[0].factors.crops.min_global_overlap: expected at least 2 levels but got 1."),
        ("[0.0, 0.3]", "0.3", "phases[0].factors.crops.min_global_overlap: expected a list or a range {low: .., high: ..} but got 0.3."),
        ("[0.0, 0.3]", "{low: 0.0, high: 0.3}", "phases[0].factors.crops.min_global_overlap: a range needs a tuning design"),
        ("[none, linear", "[none, liner", "phases[1].factors.loss.foreground_weighting[1]: expected one of none, linear"),
        (
            "high: 300}",
            "high: 9000}",
            "phases[2].factors.crops.foreground_threshold.high: expected a number from -1100 to 4000 but got 9000",
        ),
        (
            "low: -700, high: 300",
            "low: 300, high: -700",
            "phases[2].factors.crops.foreground_threshold.low: expected less than high=-700 but got 300.",
        ),
        ("high: 0.9}", "high: 0.9, lg: true}", "phases[2].factors.crops.min_foreground_ratio.lg: no such key. Did you mean log?"),
        (
            "crops.min_foreground_ratio: {low",
            "loss.centering: {low",
            "phases[2].factors.loss.centering: a range needs a setting that takes numbers but this one takes one of sinkhorn, softmax.",
        ),
        (
            "crops.min_foreground_ratio: {low: 0.2, high: 0.9}",
            "crops.local_crops: {low: 1.5, high: 4}",
            "phases[2].factors.crops.local_crops.low: expected a whole number from 0 to 32 but got 1.5.",
        ),
        ("when: {loss.matching:", "when: {loss.matchin:", "phases[2].factors.loss.matching_threshold.when.loss.matchin: no such setting"),
        (
            "[hierarchical, foreground_only]}}",
            "[own]}}",
            "phases[2].factors.loss.matching_threshold.when.loss.matching[0]: expected one of",
        ),
        (
            "[hierarchical, foreground_only]}}",
            "[own_global]}}",
            "phases[2].factors.loss.matching_threshold: is never tuned: nothing before this phase can carry loss.matching=own_global.",
        ),
        ("loop.steps: 0", "loop.stps: 0", "references.untrained.loop.stps: no such setting in trainer.config. Did you mean loop.steps?"),
        ("loop.steps: 0", "loop: 0", "references.untrained.loop: is a section of trainer.config, not a setting. Name one of its settings"),
        ("loop.steps: 0", "seed: 7", "references.untrained.seed: is the replicate's own setting."),
        ("loop.steps: 0", "measure.split: test", "references.untrained.measure.split: is part of the yardstick"),
        ("  crops.foreground_threshold: 500", "  measure.temperature: 0.2", "baseline.measure.temperature: is part of the yardstick"),
        (
            "crops.min_global_overlap: [0.0, 0.3]",
            "measure.temperature: [0.1, 0.2]",
            "phases[0].factors.measure.temperature: is part of the yardstick",
        ),
        ("crops.min_global_overlap: [0.0, 0.3]", "preset: [a, b]", "phases[0].factors.preset: expected settings, not a preset."),
        (
            "crops.min_global_overlap: [0.0, 0.3]",
            "crops.foreground_threshold: [0, 1]",
            "phases[0].set.crops.foreground_threshold: is varied in this phase too. Keep it in set or in factors.",
        ),
        ("preset: phantom_cpu", "preset: phantom", "trainer.preset: expected one of"),
        ("trainer.config:schema", "trainer.confg:schema", "trainer.schema: cannot import trainer.confg"),
        ("trainer.config:schema", "trainer.config", "trainer.schema: expected `package.module:name` or null but got 'trainer.config'."),
        ("trainer.train:train", "trainer.trane:train", "trainer.callable: cannot find the module trainer.trane"),
        ("trainer.train:train", "trainer.train:trian", "trainer.callable: trainer.train has no trian. Did you mean train?"),
        (
            "study: collapse",
            "study: 5",
            "study: expected a name of letters, digits, _, - and . that begins with a letter or digit, 64 at most but got 5.",
        ),
    ],
)
def test_one_mistake_gives_one_clear_problem(tmp_path: Path, old: str, new: str, said: str) -> None:
    found = problems_of(edited(tmp_path, (old, new)))
    assert any(problem.startswith(said) for problem in found), found


def test_settings_that_clash_only_together_name_their_arm(tmp_path: Path) -> None:
    path = edited(tmp_path, ("crops.min_global_overlap: [0.0, 0.3]", "crops.local_size_voxels: [16, 12]"))
    assert problems_of(path) == [
        "phases[0]: crops.local_size_voxels: expected a multiple of model.patch_size_voxels=8 but got 12. "
        "(arm 'local_size_voxels=12' and 3 more)"
    ]


def test_a_clash_of_a_later_phase_is_reported_only_where_no_winner_could_mend_it(tmp_path: Path) -> None:
    hopeless = edited(tmp_path, ("loss.foreground_weighting: [none, linear, squared, threshold]", "crops.local_size_voxels: [16, 12]"))
    assert "phases[1]: crops.local_size_voxels: expected a multiple" in problems_of(hopeless)[0]
    mendable = edited(
        tmp_path,
        ("crops.min_global_overlap: [0.0, 0.3]", "crops.local_crops: [1, 2]"),
        ("  crops.min_foreground_ratio: 0.3\n", "  crops.min_foreground_ratio: 0.3\n  crops.local_crops: 1\n"),
    )
    assert load(mendable).phases[1].factors["loss.matching"][1] == "hierarchical"  # type: ignore[index]


def test_a_factor_that_changes_nothing_in_its_phase_is_an_error(tmp_path: Path) -> None:
    path = edited(tmp_path, ("crops.min_global_overlap: [0.0, 0.3]", "loss.center_momentum: [0.5, 0.9]"))
    assert problems_of(path) == [
        "phases[0].factors.loss.center_momentum: has no effect in any arm of this phase. "
        "Switch on what it depends on in set, or leave it out."
    ]


def test_a_factor_that_a_winner_may_bring_to_life_is_left_to_the_start_of_its_phase(tmp_path: Path) -> None:
    later = ("loss.foreground_weighting: [none, linear, squared, threshold]", "loss.center_momentum: [0.5, 0.9]")
    assert "phases[1].factors.loss.center_momentum: has no effect" in problems_of(edited(tmp_path, later))[0]
    load(edited(tmp_path, ("crops.min_global_overlap: [0.0, 0.3]", "loss.centering: [sinkhorn, softmax]"), later))


def test_a_phase_without_an_arm_of_its_own_is_an_error(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        DESIGN_6.replace("[none, linear, squared, threshold]", "[none]").replace(
            "[all_pairs, hierarchical, foreground_only, background_prototype]", "[all_pairs]"
        ),
    )
    assert "phases[1]: has no arm beside its baseline. Add levels that differ from what is carried." in problems_of(path)


def test_every_kind_of_mistake_is_reported_at_once(tmp_path: Path) -> None:
    path = edited(
        tmp_path,
        ("start: 4", "start: 1"),
        ("objective: {metric", "objective: {metrik"),
        ("crops.foreground_crop_prob: [0.0, 1.0]", "crops.foreground_crop_prob: [0.0, 2.0]"),
        ("loss.foreground_weighting: [none, linear", "loss.weighting: [none, linear"),
        ("crops.min_global_overlap: [0.0, 0.3]", "loss.center_momentum: [0.5, 0.9]"),
        ("low: 0.1, high: 0.9", "low: 0.9, high: 0.1"),
        ("budget:", "budgets:"),
        ("name: thresholds", "name: flags"),
    )
    found = problems_of(path, "executer=inline", "loop.step=3")
    for begin in (
        "override executer: ",
        "override loop.step: no such key of a study and no such setting of its trainer. Did you mean loop.steps?",
        "phases[2].name",
        "phases[0].factors.crops.foreground_crop_prob[1]",
        "phases[1].factors.loss.weighting",
        "replicates.start",
        "objective.metrik: no such key. Did you mean metric?",
        "phases[2].factors.loss.matching_threshold.low",
        "budgets: no such key. Did you mean budget?",
    ):
        assert any(problem.startswith(begin) for problem in found), (begin, found)


def test_a_mistake_elsewhere_does_not_hide_arms_that_cannot_be_trained(tmp_path: Path) -> None:
    path = edited(tmp_path, ("start: 4", "start: 1"), ("crops.min_global_overlap: [0.0, 0.3]", "crops.local_size_voxels: [16, 12]"))
    found = problems_of(path)
    assert len(found) == 2
    assert found[0].startswith("replicates.start")
    assert found[1].startswith("phases[0]: crops.local_size_voxels")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a study but the file is empty."),
        ("# nothing\n", "expected a study but the file is empty."),
        ("- a\n- b\n", "expected keys such as `study: NAME` at the top but got a list."),
        ("just words", "expected keys such as `study: NAME` at the top but got a single value."),
        ("study: x\n\tquestion: y\n", "line 2, column 1: expected spaces but got a tab."),
        ("study: [x\nquestion: y\n", "line 2"),
        ("study: x\n---\nstudy: y\n", "line 2, column 1: expected one study but a second document begins with `---`."),
        ("study: !!python/object:os.system x\n", "line 1, column 8: expected plain values but got a tag."),
        ("study: &a [*a]\n", "line 1, column 8: expected YAML but a value that contains itself."),
        ("? [a, b]\n: 1\n", "line 1, column 3: expected YAML but a key that is not a text."),
        ("study: \x00\n", "expected text but got control characters."),
    ],
)
def test_what_is_no_study_file_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    found = problems_of(written(tmp_path, text))
    assert len(found) == 1
    assert found[0].startswith(said), found


def test_a_file_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    written(tmp_path, DESIGN_6)
    assert problems_of(tmp_path / "studi.yaml") == [f"no such file. There is {tmp_path / 'study.yaml'}."]
    assert "it is a folder" in problems_of(tmp_path)[0]
    (tmp_path / "latin.yaml").write_bytes("study: Tür".encode("latin-1"))
    assert "expected UTF-8 text but byte 8 is not." in problems_of(tmp_path / "latin.yaml")[0]


def test_keys_that_stand_twice_are_named_with_both_lines(tmp_path: Path) -> None:
    path = edited(tmp_path, ("  crops.foreground_crop_prob: 0.0\n", "  crops.foreground_crop_prob: 0.0\n  crops.foreground_threshold: 0\n"))
    assert problems_of(path) == ["baseline.crops.foreground_threshold: stands twice, in line 6 and in line 8. Keep one of them."]


def test_yaml_is_read_without_its_surprises() -> None:
    text = "{a: off, b: 1e-5, c: 010, d: 12:30, e: 2024-01-02, f: true, g: null, h: none, i: -700, j: .5, k: 1_000, m: '${oc.env:HOME}'}"
    value, problems = parse(text)
    assert problems == []
    assert value == {
        "a": "off", "b": 1e-5, "c": 10, "d": "12:30", "e": "2024-01-02", "f": True, "g": None, "h": "none", "i": -700, "j": 0.5, "k": 1000,
        "m": "${oc.env:HOME}",
    }  # fmt: skip
    assert isinstance(value["b"], float)  # type: ignore[index, call-overload]


PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**9), 10**9),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text("abz_. -0", max_size=6),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_values_survive_writing_and_reading(value: object) -> None:
    assert parse(yaml.safe_dump(value))[0] == value


@given(st.text(max_size=60))
def test_no_text_on_the_command_line_breaks_the_reader(text: str) -> None:
    value: object = None
    with contextlib.suppress(ValueError):
        value = parse_value(text)
    assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("replicates.start=3", lambda s: s.replicates.start == 3),
        ("trainer.set.loop.steps=50", lambda s: s.trainer.set == {"loop.steps": 50}),
        ("loop.steps=50", lambda s: s.trainer.set == {"loop.steps": 50}),
        ("data.source=/path/to/scans", lambda s: s.trainer.set == {"data.source": "/path/to/scans"}),
        ("executor=inline", lambda s: s.executor == "inline"),
        ("baseline.crops.foreground_threshold=0", lambda s: s.baseline["crops.foreground_threshold"] == 0.0),
        ("phases.flags.replicates.start=3", lambda s: s.replicates_of(s.phases[0]).start == 3),
        ("phases[1].replicates={start: 5, at_most: 9}", lambda s: s.replicates_of(s.phases[1]).at_most == 9),
        ("phases.thresholds.design.tune=6", lambda s: s.phases[2].design == Tune(tune=6)),
        (
            "phases.thresholds.factors.crops.foreground_threshold.low=-600",
            lambda s: s.phases[2].factors["crops.foreground_threshold"].low == -600,
        ),
        ("phases.flags.set.crops.min_foreground_ratio=0.4", lambda s: s.phases[0].set["crops.min_foreground_ratio"] == 0.4),
        ("phases.weighting.set.loss.koleo_weight=0.1", lambda s: s.phases[1].set == {"loss.koleo_weight": 0.1}),
        (
            "phases.weighting.factors.loss.matching=[all_pairs, hierarchical]",
            lambda s: s.phases[1].factors["loss.matching"][1] == "hierarchical",
        ),
        ("guards[0].at_least=0.1", lambda s: s.guards[0].at_least == 0.1),
        ("references.untrained.loop.warmup_steps=0", lambda s: s.references["untrained"] == {"loop.steps": 0, "loop.warmup_steps": 0}),
        ("question=What = what?", lambda s: s.question == "What = what?"),
        ("timeout_min=null", lambda s: s.timeout_min is None),
    ],
)
def test_any_value_can_be_overridden(tmp_path: Path, change: str, read) -> None:
    assert read(load(written(tmp_path, DESIGN_6), [change]))


def test_a_later_override_counts_over_an_earlier_one(tmp_path: Path) -> None:
    assert load(written(tmp_path, DESIGN_6), ["loop.steps=5", "loop.steps=50"]).trainer.set["loop.steps"] == 50


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "replicats.start=3",
            "override replicats.start: no such key of a study and no such setting of its trainer. Did you mean replicates.start?",
        ),
        ("replicates.stat=3", "replicates.stat: no such key. Did you mean start?"),
        ("replicates.start=1", "replicates.start: expected a whole number of at least 3 but got 1."),
        (
            "foreground_crop_prob=1",
            "override foreground_crop_prob: no such key of a study and no such setting of its trainer. Did you mean",
        ),
        ("loop=5", "override loop: is a section of settings, not a setting."),
        ("loop.steps=many", "trainer.set.loop.steps: expected a whole number of at least 0 but got 'many'."),
        (
            "phases.flagz.replicates.start=3",
            "override phases.flagz.replicates.start: expected one of flags, weighting, thresholds or a number below 3",
        ),
        ("phases[7].name=x", "override phases[7].name: expected one of flags, weighting, thresholds or a number below 3"),
        ("nonsense", "override expected KEY=VALUE but got 'nonsense'."),
        ("loop.steps=", "override expected a value after loop.steps= but got nothing. Write null for none."),
        ("loop.steps=[1", "override loop.steps: line 1"),
        ("trainer.preset=nope", "trainer.preset: expected one of"),
        ("loop.steps=5", "trainer.set: loop.warmup_steps: expected fewer than loop.steps=5 but got 10."),
        ("baseline.loop.steps=5", "baseline: loop.warmup_steps: expected fewer than loop.steps=5 but got 10."),
    ],
)
def test_an_override_that_leads_nowhere_is_a_problem(tmp_path: Path, change: str, said: str) -> None:
    found = problems_of(written(tmp_path, DESIGN_6), change)
    assert any(problem.startswith(said) for problem in found), found


@given(st.lists(st.text("abs.=[]01phasetrinplc ", max_size=30), max_size=3))
def test_no_override_breaks_the_loader(changes: list[str]) -> None:
    document = {"study": "s", "phases": [{"name": "a", "factors": {"x.y": [1]}}], "trainer": {"callable": "m:f"}, "guards": "odd"}
    changed, problems = overrides.apply(document, changes, ["x.y", "loop.steps"])
    assert document["phases"] == [{"name": "a", "factors": {"x.y": [1]}}], "the input stays as it was"
    assert isinstance(changed, dict)
    assert all(str(problem).startswith("override ") for problem in problems)


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(-2, 2), st.text("ab:{", max_size=3)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=2),
            st.dictionaries(
                st.sampled_from(["name", "design", "factors", "set", "components", "gate", "when", "low", "x", "otherwise", "advance_if"]),
                inner,
                max_size=3,
            ),
        ),
        max_leaves=12,
    ),
    st.sampled_from(sorted(Study.model_fields)),
)
def test_no_value_anywhere_in_the_file_breaks_the_loader(tmp_path_factory: pytest.TempPathFactory, value: object, key: str) -> None:
    document = yaml.safe_load(DESIGN_6) | {key: value}
    document["trainer"] = {"callable": "trainer.config:schema"} if key != "trainer" else value
    if key != "phases":
        document["phases"] = [{"name": "p", "design": "path", "factors": {"a": [1, 2]}}, value]
    path = tmp_path_factory.mktemp("any") / "study.yaml"
    path.write_text(yaml.safe_dump(document))
    with contextlib.suppress(StudyError):
        load(path)


def test_nested_levels_are_the_same_as_dotted_ones(tmp_path: Path) -> None:
    nested = edited(
        tmp_path,
        (
            "  crops.foreground_threshold: 500\n  crops.foreground_crop_prob: 0.0\n",
            "  crops: {foreground_threshold: 500, foreground_crop_prob: 0}\n",
        ),
    )
    assert load(nested).baseline == load(written(tmp_path, DESIGN_6)).baseline


def test_a_study_without_a_schema_is_loaded_unchecked(tmp_path: Path) -> None:
    path = edited(tmp_path, ('schema: "trainer.config:schema", preset: phantom_cpu', "set: {whatever: 1}"))
    study = load(path, ["my.own.setting=3"])
    assert study.trainer.set == {"whatever": 1, "my.own.setting": 3}
    assert study.columns == []


def test_the_name_of_a_study_is_read_without_its_trainer(tmp_path: Path) -> None:
    assert study_name(written(tmp_path, "study: mine\nphases: nonsense\n")) == "mine"
    with pytest.raises(StudyError, match="study: expected a name but got null"):
        study_name(written(tmp_path, "question: what?\n"))


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_study_that_ships_loads_and_says_its_question_command_cost_and_finding(path: Path) -> None:
    study = load(path)
    assert study.study == path.stem
    header = path.read_text().splitlines()[:4]
    assert [line.split()[1] for line in header] == ["Question", "Command", "Cost", "Finding"]
    assert f"ablate run studies/{path.name}" in header[1]
