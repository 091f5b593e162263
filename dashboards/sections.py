"""The report's sections, each from `Results` and its document to HTML; empty where there is nothing to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from ablate.study import BASELINE, CONFIRMATION, REFERENCES
from ablate.words import between, counted, listed, number
from dashboards import figures, palette, tables
from dashboards.page import Cell, breakable, chip, copyable, described, figure, legend, listing, table, text, yaml_block

if TYPE_CHECKING:
    from ablate.results import Results

Document = Mapping[str, Any]

CURVES = (
    "train/prototype_entropy_foreground",
    "train/prototype_entropy_background",
    "train/foreground_mutual_information",
    "train/loss_total",
    "train/foreground_ratio_global",
    "train/foreground_ratio_local",
    "train/global_iou",
    "train/local_containment",
)
"""What a DINO study is looked at by; any other trainer's curves are those of its own columns and objective."""

MOST_CURVES = 10
MOST_ARMS = 12
"""Whose curves are drawn: more lines in a small multiple are not told apart, and take longest of all to draw."""

SAYS = {"adopt": "adopted", "reject": "rejected", "undecided": "undecided"}


def answer(document: Document) -> str:
    """The verdict in its sentences, and what to change."""
    said = document["answer"]
    headline = said["headline"][: len(said["headline"]) - len(document["phases"])] or said["headline"]
    adopted = bool(adopted_arms(document))
    words = [f'<p class="verdict {"yes" if adopted else "no"}">{text(" ".join(headline))}</p>']
    if said["changes"]:
        changes = {change["path"]: change["becomes"] for change in said["changes"]}
        was = {change["path"]: f"was {tables.plain(change['was'])}" for change in said["changes"]}
        words += [f"<h2>What to change in the config: {text(counted(len(changes), 'setting'))}</h2>", copyable(yaml_block(changes, was))]
    elif document["phases"]:
        words.append("<h2>What to change in the config: nothing</h2><p>No change is shown to help, so the baseline stays.</p>")
    if said["lacking"]:
        words.append(f"<h2>What is missing</h2>{listing(said['lacking'])}")
    return "".join(words)


def adopted_arms(document: Document) -> list[str]:
    """What the phases adopted, each with its phase; none where fresh replicates did not confirm it. What these confirm is no arm more."""
    phases = document["phases"]
    if phases and phases[-1]["name"] == CONFIRMATION and phases[-1]["winner"] == BASELINE:
        return []
    return [f"{phase['winner']} ({phase['name']})" for phase in phases if phase["winner"] != BASELINE and phase["name"] != CONFIRMATION]


def questions(results: Results, document: Document) -> str:
    """What the cures promised, each answered with figures for the winner against the study's baseline."""
    asked = document["answer"]["questions"]
    if not asked:
        return ""
    phase, arm = subject(document)
    trials = results.trials()
    cards = []
    for index, one in enumerate(asked):
        kind = {"yes": "yes-chip", "no": "no-chip"}.get(one["says"], "open-chip")
        sentence = one["sentence"].removeprefix(one["ask"]).strip().replace(" -> ", " → ")
        drawn = ""
        before, after = _by_replicate(trials, REFERENCES, BASELINE, one["metric"]), _by_replicate(trials, phase, arm, one["metric"])
        if before.keys() & after.keys():
            names = ("study's baseline", "winner" if is_winner(document, phase, arm) else "best arm")
            caption = f"A line a replicate; {'lower' if one['direction'] == 'minimize' else 'higher'} is better."
            pairs = figures.pairs(before, after, one["metric"], names)
            drawn = figure(pairs, name=f"question-{index}", title=f"{one['ask']} {sentence}", caption=caption, heading=False)
        says = chip({"yes": "yes", "no": "no, the opposite"}.get(one["says"], "not shown"), kind)
        cards.append(f'<div class="card"><h3>{text(one["ask"])} {says}</h3><p class="soft">{breakable(sentence)}</p>{drawn}</div>')
    yes = sum(one["says"] == "yes" for one in asked)
    who = f"{_who(document)}, against the study's baseline."
    heading = f"<h2>{yes} of {counted(len(asked), 'question')} answered with yes</h2><p>{text(who)}</p>"
    return f'{heading}<div class="grid four">{"".join(cards)}</div>'


def _who(document: Document) -> str:
    """The arm asked about; a winner by everything that was adopted on the way to it."""
    adopted = adopted_arms(document)
    return f"The winner: {listed(adopted)}" if adopted else f"Nothing is adopted; the closest is {document['answer']['subject']}"


def phase(results: Results, document: Document, index: int) -> str:
    """A phase: its finding, effects, table of arms and curves."""
    found = document["phases"][index]
    rivals = [arm for arm in found["arms"] if arm["name"] != BASELINE]
    counts = Counter(arm["verdict"] for arm in rivals)
    told = ", ".join(f"{counts[word]} {says}" for word, says in SAYS.items())
    told = f"of {counted(len(rivals), 'arm')} {told}" if rivals else "no arm to compare with the baseline"
    heading = f"<h2>Phase {text(found['name'])}: {text(told)}</h2>"
    lead = f"<p>{text(found['reason'])}</p>"
    evidence = _effects(document, found, index) + tables.arms(document, found)
    return heading + lead + evidence + _alarms(found) + _curves(results, document, found, index)


def _alarms(found: Document) -> str:
    """Which arms the trainer's own alarm still named at their end, and since when."""
    kinds: dict[str, list[Document]] = {}
    for alarm in found["alarms"]:
        kinds.setdefault(alarm["arm"], []).append(alarm)
    if not kinds:
        return ""
    said = []
    for arm in (one for one in found["arms"] if one["name"] in kinds):
        alarms = kinds[arm["name"]]
        steps = sorted(alarm["since_step"] for alarm in alarms)
        since = f"step {steps[0]}" if steps[0] == steps[-1] else f"steps {steps[0]} to {steps[-1]}"
        which = listed(sorted({alarm["kind"] for alarm in alarms}))
        said.append(f"{arm['name']}: {which} since {since}, in {len(alarms)} of {counted(arm['replicates'], 'replicate')}")
    if not said:
        return ""
    marked = "The dotted line in the curves is the median step."
    return f"<h3>The collapse alarm sounds at the end of {counted(len(said), 'arm')}</h3><p>{marked}</p>{listing(said)}"


def _effects(document: Document, found: Document, index: int) -> str:
    objective = document["objective"]
    sign = 1 if objective["direction"] == "maximize" else -1
    known = [arm for arm in found["arms"] if arm["effect"] is not None and arm["name"] != BASELINE]
    if known:
        best = max(known, key=lambda arm: sign * arm["effect"]["mean"])
        effect = best["effect"]
        bounds = between(effect["low"], effect["high"])
        on, said = palette.title(objective["metric"]), number(effect["mean"], signed=True)
        title = f"The best effect on {on} is {said}{bounds}: {best['name']} ({SAYS[best['verdict']]})"
    else:
        title = "No arm has a known effect"
    drawn = figures.effects(
        found["arms"],
        metric=objective["metric"],
        sign=sign,
        smallest_effect=objective["smallest_effect"],
        references=_reference_effects(document, found),
        alpha=document["alpha"],
    )
    caption = (
        f"Mean paired difference of {objective['metric']} to this phase's baseline (the line at 0), with simultaneous "
        f"{1 - document['alpha']:.0%} intervals. Grey band: below the smallest effect worth acting on, {objective['smallest_effect']:g}."
    )
    if document["references"]:
        caption += f" Dashed: {listed(sorted(document['references']))}, which an arm must beat too."
    return figure(drawn, name=f"effects-{index}", title=title, caption=caption)


def _reference_effects(document: Document, found: Document) -> dict[str, float]:
    """Each reference as a difference to the phase's baseline: over the pairs that the verdicts used, else from the means."""
    metric = document["objective"]["metric"]
    effects: dict[str, float] = {}
    for arm in found["arms"]:
        for reference in arm["references"]:
            if arm["effect"] is not None and reference["difference"] is not None:
                effects.setdefault(reference["name"], arm["effect"]["mean"] - reference["difference"])
    baseline = next((arm["metrics"].get(metric) for arm in found["arms"] if arm["name"] == BASELINE), None)
    for name, reference in document["references"].items():
        if name not in effects and baseline is not None and metric in reference["metrics"]:
            effects[name] = reference["metrics"][metric] - baseline
    return effects


def _curves(results: Results, document: Document, found: Document, index: int) -> str:
    """Small multiples: what happened on the way, an arm a colour."""
    wanted = list(dict.fromkeys([*CURVES, *document["columns"], document["objective"]["metric"]]))
    arms = _worth_drawing(document, found)
    frame = results.curves(wanted)
    frame = frame[(frame["phase"] == found["name"]) & frame["arm"].isin(arms)]
    lines, group = palette.lines(arms, BASELINE), f"curves-{index}"
    panels: list[str] = []
    drawn_already: set[str] = set()
    for metric in wanted:
        one = frame[frame["metric"] == metric]
        if one["step"].nunique() > 1 and len(panels) < MOST_CURVES and palette.title(metric) not in drawn_already:
            drawn_already.add(palette.title(metric))
            known = {arm: line for arm, line in lines.items() if arm in set(one["arm"])}
            drawn = figures.curves(one, metric, known, found["winner"], _since(found))
            ends = {arm: values["value"].mean() for arm, values in one[one["step"] == one["step"].max()].groupby("arm")}
            title = _curve_title(metric, ends, found["winner"])
            caption = f"{metric}: mean and spread over replicates."
            panel = figure(drawn, name=f"{group}-{len(panels)}", title=title, caption=caption, group=group)
            panels.append(f'<div class="card">{panel}</div>')
    if not panels:
        return ""
    spread = (
        "Lines are means over replicates, bands reach from the least to the greatest replicate; a triangle marks the largest rise of a "
        "loss above its least value so far, a dotted line the step since which an arm's collapse alarm sounds. Press an arm to hide it."
    )
    if len(arms) < len(found["arms"]):
        spread = f"The {len(arms)} of {len(found['arms'])} arms with the best effects; `ablate export --csv` has all. {spread}"
    said = f'<h3>On the way there</h3><p class="soft">{text(spread)}</p>{legend(lines, group)}'
    return f'{said}<div class="grid">{"".join(panels)}</div>'


def _worth_drawing(document: Document, found: Document) -> list[str]:
    """The arms of a phase in its order; of many the baseline, the winner and the best: more lines cannot be told apart."""
    sign = 1 if document["objective"]["direction"] == "maximize" else -1

    def rank(arm: Document) -> tuple[bool, float]:
        first = arm["name"] in (BASELINE, found["winner"])
        return not first, -sign * arm["effect"]["mean"] if arm["effect"] is not None else float("inf")

    kept = {arm["name"] for arm in sorted(found["arms"], key=rank)[:MOST_ARMS]}
    return [arm["name"] for arm in found["arms"] if arm["name"] in kept]


def _since(found: Document) -> dict[str, float]:
    """The median step since which each arm's alarm sounds."""
    steps: dict[str, list[int]] = {}
    for alarm in found["alarms"]:
        steps.setdefault(alarm["arm"], []).append(alarm["since_step"])
    return {arm: median(some) for arm, some in steps.items()}


def _curve_title(metric: str, ends: Mapping[str, float], winner: str) -> str:
    """What the curve came to: the baseline beside the winner, else beside the arm furthest from it."""
    name = palette.title(metric).capitalize()
    if BASELINE not in ends:
        return name
    others = {arm: value for arm, value in ends.items() if arm != BASELINE}
    if not others:
        return f"{name} ends at {number(ends[BASELINE])}"
    other = winner if winner in others else max(others, key=lambda arm: abs(others[arm] - ends[BASELINE]))
    if number(others[other]) == number(ends[BASELINE]):
        return f"{name} ends at {number(ends[BASELINE])} for {'all' if other != winner else 'baseline and winner'}"
    who = "winner" if other == winner else other
    return f"{name} ends at {number(ends[BASELINE])} for the baseline, {number(others[other])} for {who}"


def thresholds(document: Document) -> str:
    """The tuned settings: the recommended value, the range that is about as good, and every measured point."""
    found = document["thresholds"]
    if not found:
        return ""
    says = {"tuned": "tuned value adopted", "kept": "tuning did not beat the carried value, which stays", "inert": "has no effect here"}
    head = [Cell("setting"), Cell("recommended", "number"), Cell("about as good from", "number"), Cell("to", "number"), Cell("status")]
    rows = [
        [
            Cell(text(path), "name"),
            Cell(text(tables.plain(row["recommended"])), "number"),
            *tables.numbers([row["low"], row["high"]]),
            Cell(f"{text(row['status'])}: {text(says[row['status']])}"),
        ]
        for path, row in found.items()
    ]
    cards: list[str] = []
    for phase in document["phases"]:
        for path in sorted({path for point in phase["points"] for path in point["levels"]} & found.keys()):
            if found[path]["status"] == "inert":
                continue
            log = any(one["name"] == path and one["log"] for one in (phase["operating"] or {}).get("thresholds", []))
            drawn = figures.slices(phase["points"], path, metric=document["objective"]["metric"], threshold=found[path], log=log)
            title = f"{path}: {_range_words(found[path], document)}"
            caption = (
                "A large mark a measured point, mean over its replicates; cross: a guard is broken. Small rings: its single trials. "
                "Dashed: recommended. Shaded: about as good."
            )
            cards.append(f'<div class="card">{figure(drawn, name=f"threshold-{len(cards)}", title=title, caption=caption)}</div>')
    tuned = [path for path, row in found.items() if row["status"] == "tuned"]
    heading = f"Thresholds: {f'{listed(tuned)} tuned' if tuned else 'the carried values stay'}"
    return f'<h2>{text(heading)}</h2>{table(head, rows, label="Thresholds")}<div class="grid">{"".join(cards)}</div>'


def _range_words(threshold: Mapping[str, Any], document: Document) -> str:
    if threshold["low"] is None or threshold["high"] is None:
        return "no point can be recommended"
    reach = f"{number(threshold['low'])} to {number(threshold['high'])}"
    near = f"within the smallest effect ({document['objective']['smallest_effect']:g}) of the best"
    predicted = threshold["sensitivity"] is not None  # its ends are then those of an operating range
    return f"{reach} is predicted to lie {near}" if predicted else f"measured values from {reach} lie {near}"


def beside_references(document: Document) -> tuple[str, list[str], list[tuple[str, list[float | None]]]] | None:
    """Finding, names of the columns, and each probe with its values; None where the study has no probes."""
    if not document["phases"]:
        return None
    found, last = document["phases"][0], document["phases"][-1]
    winner = next(arm for arm in last["arms"] if arm["name"] == last["winner"])
    baseline = next(arm for arm in found["arms"] if arm["name"] == BASELINE)
    shown = [(one["metric"], one["floor"]) for one in document["floors"] if one["metric"] in winner["metrics"]]
    if not shown:
        return None
    references = document["references"]
    rows: list[tuple[str, list[float | None]]] = []
    beaten = 0
    for metric, floor in shown:
        others = [winner["metrics"].get(floor), *(reference["metrics"].get(metric) for reference in references.values())]
        beaten += all(value is not None and winner["metrics"][metric] > value for value in others)
        rows.append((metric, [baseline["metrics"].get(metric), winner["metrics"][metric], *others]))
    names = ["the study's baseline", f"winner of {last['name']}", "no learning", *references]
    return f"Probes: the winner is above every reference in {beaten} of {counted(len(shown), 'probe')}", names, rows


def probes(document: Document) -> str:
    """Probes of the first baseline and of the winner beside the references and beside what needs no learning."""
    compared = beside_references(document)
    if compared is None:
        return ""
    heading, names, found = compared
    rows = [[Cell(text(metric)), *tables.numbers(values)] for metric, values in found]
    head = [Cell("probe, mean over replicates"), *(Cell(text(name), "number") for name in names)]
    said = (
        "On held-out scans. <em>No learning</em> is the same probe on raw intensities: where it is not beaten, the probe cannot tell "
        "learning. Means without intervals; the verdict rests on the objective alone."
    )
    return f'<h2>{text(heading)}</h2><p class="soft">{said}</p>{table(head, rows, label="Probes beside their references")}'


def facts(results: Results, document: Document) -> dict[str, str]:
    """What ran, on what, with which settings for all."""
    study, budget, trials = results.study, document["budget"], results.trials()
    states = Counter(trials.drop_duplicates("signature")["state"]) if len(trials) else Counter()
    seconds = trials["seconds"].dropna() if len(trials) else trials
    bound = [
        f"{budget['trials_used']} trials started" + (f" of at most {budget['trials_at_most']}" if budget["trials_at_most"] else ""),
        f"{budget['hours_used']:.2f} hours" + (f" of at most {budget['hours_at_most']:g}" if budget["hours_at_most"] else ""),
    ]
    return {
        "budget": ", ".join(bound),
        "trials": ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none",
        "a trial took": f"{seconds.median():.1f} s (median)" if len(seconds) else "not known",
        "workers": f"{study.workers} ({study.executor}), {counted(study.threads_per_worker, 'thread')} each",
        "machine": results.machines() or "not known",
        "trainer": study.trainer.name + (f", preset {study.trainer.preset}" if study.trainer.preset else ""),
        "code version": document["code_version"],
        "data hash": document["data_hash"] or "none",
        "baseline": ", ".join(f"{path}={tables.plain(value)}" for path, value in document["baseline"].items()),
        "guards": "; ".join(document["guards"]) or "none",
    }


def how(results: Results, document: Document) -> str:
    """Cost, failures, versions, the statistics in plain words, and what the answer does not cover."""
    failed = document["failed_trials"]
    head = [Cell("trial"), Cell("cause"), Cell("message", "reason")]
    body = [
        [Cell(text(f"{f['phase']} / {f['arm']}, replicate {f['replicate']}")), Cell(text(f["cause"] or "")), Cell(text(f["message"]))]
        for f in failed
    ]
    failures = f"<h3>{counted(len(failed), 'trial')} failed for good</h3>{table(head, body, label='Failed trials')}" if failed else ""
    decided = f"<h3>How it was decided</h3>{listing(statistics(document))}"
    limits = f"<h3>Keep in mind</h3>{listing(document['answer']['warnings'])}"
    limits += f"<h3>Was it a fair comparison?</h3><p>{text(document['fairness']['sentence'])}</p>"
    before = [" ".join(one["changed"]) for one in document["history"]]
    limits += f"<h3>Earlier runs of this study</h3>{listing(before)}" if before else ""
    return f"<h2>How it was run</h2>{described(facts(results, document))}{failures}{decided}{limits}"


def statistics(document: Document) -> list[str]:
    """How it was decided, in plain words."""
    objective, level = document["objective"], f"{1 - document['alpha']:.0%}"
    guards = f" and keeps {counted(len(document['guards']), 'guard')}" if document["guards"] else ""
    beats = f" and beats {listed(sorted(document['references']))}" if document["references"] else ""
    return [
        "Every arm runs on the same replicates as its baseline. A replicate gives both the same seed, so what the trainer draws from it is "
        "the same in both, and it is these paired differences that are averaged.",
        f"The intervals of a phase hold together: with probability {level} all of them cover their true effect at once. The adjusted p "
        "comes from the same family, so it is below alpha exactly where the interval leaves 0 on the good side.",
        f"adopt: better than the baseline at adjusted p < {document['alpha']:g}, by at least {objective['smallest_effect']:g} on "
        f"{objective['metric']}{guards}{beats}. reject: a guard is broken, or the interval lies below the smallest effect. "
        "undecided: anything else; it is not a no.",
    ]


def subject(document: Document) -> tuple[str, str]:
    """Phase and arm that the answer's questions are about."""
    for phase in document["phases"]:
        for arm in phase["arms"]:
            if document["answer"]["subject"] == f"{arm['name']} ({phase['name']})":
                return phase["name"], arm["name"]
    last = document["phases"][-1]
    return last["name"], last["winner"]


def is_winner(document: Document, phase: str, arm: str) -> bool:
    """Whether a phase carried this arm on."""
    return any(found["name"] == phase and found["winner"] == arm for found in document["phases"])


def _by_replicate(trials: Any, phase: str, arm: str, metric: str) -> dict[int, float]:
    if metric not in trials:
        return {}
    found = trials[(trials["phase"] == phase) & (trials["arm"] == arm)].dropna(subset=[metric])
    return {int(row.replicate): float(value) for row, value in zip(found.itertuples(), found[metric], strict=True)}
