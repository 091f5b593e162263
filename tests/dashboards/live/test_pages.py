"""Pages as they are made of a study's record, and the server's answers, without a browser."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pressing import LOCAL, press, told

from ablate.cli.steering import retry
from ablate.errors import StudyError
from ablate.execution.requests import waiting
from ablate.results import Results
from ablate.study import Arm
from ablate.trial import TrialFiles, metric_line
from dashboards.live import address, asking, comparison, overview, trial
from dashboards.live.address import View
from dashboards.live.app import Drawn, Screen, toggled
from dashboards.live.drawing import comparison as comparison_figure
from dashboards.live.parts import first_line
from dashboards.live.record import ArmKey, Record, log_tail
from dashboards.live.serve import application
from dashboards.live.streams import Streams, spread, thinned
from dashboards.palette import Line

NASTY = '<img src=x onerror="alert(1)">'


def words(content: Any) -> str:
    """All that stands on a page."""
    found: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, list | tuple):
            for one in part:
                walk(one)
        elif hasattr(part, "to_plotly_json"):
            walk(part.to_plotly_json()["props"].get("children"))

    walk(content)
    return "".join(found)


def ids(content: Any, kind: str) -> list[dict[str, Any]]:
    """The ids of a kind on a page, in order."""
    found: list[dict[str, Any]] = []

    def part(component: Any) -> Any:
        made = component.to_plotly_json()
        of = made["props"].get("id")
        if isinstance(of, dict) and kind in of:
            found.append(of)
        return made

    json.dumps(content, default=part)
    return found


def everything(made: Any) -> str:
    return f"{made.heading} {words([made.controls, *made.regions.values()])}"


@pytest.fixture
def screen(results: Results, record_of: Callable[[Path, str], Record]) -> Screen:
    record = record_of(results.root, "planted")
    steering = asking.Steering(
        record.status, lambda: "stopped", lambda trial, reopen: f"retried {trial} {reopen}", lambda phase, arm: f"more of {arm} in {phase}"
    )
    return Screen(record, steering, "secret")


# addresses


@pytest.mark.parametrize(
    "view",
    [
        View(),
        View(page="compare", phase="flags", arms=("flags/baseline", "flags/a=1, b='x&y=z'"), metrics=("train/loss", "ä/ß")),
        View(page="trials", state="failed", search="100 % #?", part=3),
        View(page="trial", trial="abc/../def"),
    ],
)
def test_every_view_is_found_again_by_its_address(view: View) -> None:
    path, _, query = view.address.partition("?")
    assert address.read(path, f"?{query}") == view


@pytest.mark.parametrize("query", ["?part=-1", "?part=x", "?part=²", "?part=99999999999", "?arm=", "?%ff", None])
def test_an_address_that_is_no_good_shows_the_page_all_the_same(query: str | None, screen: Screen) -> None:
    assert screen.page(address.read("/trials", query)).heading == "Trials"


def test_another_choice_begins_at_the_first_part() -> None:
    assert View(page="trials", part=7).but(state="done").part == 1


def test_what_is_pressed_is_added_or_taken_away_and_the_rest_stays() -> None:
    view = View(page="compare", part=2)
    more = toggled(view, "arms", "p/c", ["p/a", "p/b"])
    assert more.arms == ("p/a", "p/b", "p/c")
    assert more.part == 2
    assert toggled(more, "arms", "p/a", more.arms).arms == ("p/b", "p/c")


# streams


def test_a_stream_is_read_on_from_where_it_was_and_a_torn_line_waits(tmp_path: Path) -> None:
    path, streams = tmp_path / "metrics.jsonl", Streams()
    assert streams.read(path).step is None
    path.write_text(metric_line(0, {"loss": 4.0}) + metric_line(1, {"loss": float("nan"), "x": 1.0}) + '{"step": 2, "metr')
    assert streams.read(path).step == 1
    with path.open("a") as file:
        file.write('ics": {"loss": 2.0}}\ngarbage\n' + metric_line(1, {"loss": 3.0}))
    series = streams.read(path).series("loss")
    assert series is not None
    assert [found.tolist() for found in series] == [[0, 1, 2], [4, 3, 2]], "the later value of a step stands"
    assert streams.read(path).series("nothing") is None
    path.unlink()
    path.write_text(metric_line(7, {"loss": 1.0}))
    assert streams.read(path).values["loss"][1].tolist() == [1.0], "another file begins anew"


def test_streams_that_nobody_looks_at_are_forgotten_first(tmp_path: Path) -> None:
    streams = Streams(most_points=150)
    for name in "abc":
        (tmp_path / name).write_text("".join(metric_line(step, {"loss": step}) for step in range(60)))
        streams.read(tmp_path / name)
    assert [path.name for path in streams._streams] == ["b", "c"]


def test_a_thinned_curve_keeps_its_end_and_its_mean() -> None:
    steps = np.arange(100_000.0)
    drawn = thinned((steps, steps % 2), 300)
    assert len(drawn[0]) <= 300
    assert drawn[0][-1] == 99_999
    assert np.allclose(drawn[1][:-1], 0.5, atol=0.01)


def test_the_spread_is_that_of_the_replicates_that_have_come_so_far() -> None:
    long, short = (np.array([0.0, 1, 2, 3]), np.array([0.0, 1, 2, 3])), (np.array([0.0, 2]), np.array([2.0, 4]))
    found = spread([long, short])
    assert found is not None
    assert list(found.steps) == [0, 1, 2, 3]
    assert list(found.mean) == [1, 2, 3, 3]
    assert list(found.low) == [0, 1, 2, 3]
    assert list(found.high) == [2, 3, 4, 3]
    assert spread([]) is None


# pages


def test_the_overview_says_where_the_study_stands(screen: Screen, results: Results) -> None:
    made = screen.page(View())
    said = everything(made)
    counts = screen.record.status()["trials"]
    assert made.heading == results.study.question
    assert f"{counts['done']} of {sum(counts.values())}" in said
    for conclusion in results.conclusions:
        assert f" winner: {conclusion.winner}" in said
    assert "1 trial failed for good: 1 nan." in said
    assert "loss is NaN at step 12" in said
    assert ids(made.regions["failures"], "ask") == [{"ask": "retry_failed", "of": ""}]


def test_the_confirmed_winner_is_called_by_its_arms_own_name(screen: Screen) -> None:
    """In the phase that confirms it the arm is called `winner`, which says nothing to who comes in."""
    now = screen.record.snapshot()
    assert now is not None
    confirmed = now.conclusions["flags"].model_copy(update={"phase": "confirmation", "winner": "winner"})
    after = replace(now, conclusions={"flags": now.conclusions["flags"], "confirmation": confirmed})
    after.__dict__.update(phases=["flags", "confirmation"], latest_phase="confirmation")
    said = "".join(words(overview._latest_answer(after)).split())
    assert said.startswith("".join(f"Winner, confirmed {now.conclusions['flags'].winner}".split()))


def test_picked_arms_stand_side_by_side_with_their_curves(screen: Screen) -> None:
    now = screen.record.snapshot()
    assert now is not None
    arms = [str(key) for key in now.of_arm if key.phase == "flags"][:3]
    made = screen.page(View(page="compare", phase="flags", arms=tuple(arms), metrics=("train/loss_total",)))
    drawn = Drawn(made.regions["curves"])
    assert list(drawn.leaves) == ["graph compare train/loss_total"]
    lines = [trace for trace in drawn.leaves["graph compare train/loss_total"]["data"] if trace.get("fill") is None]
    assert len(lines) == 3
    assert drawn.leaves["graph compare train/loss_total"]["layout"]["uirevision"]
    key = ArmKey("flags", arms[1].partition("/")[2])
    values = [result.metrics[now.study.objective.metric] for s in now.of_arm[key].values() if (result := now.result(s))]
    verdict = now.verdict(key)
    assert verdict is not None
    assert f"{sum(values) / len(values):.3g} ({min(values):.3g} to {max(values):.3g})" in words(made.regions["picked"])
    assert verdict.verdict in words(made.regions["picked"])
    pressed = [found["of"] for found in ids(made.regions["arms"], "toggle")]
    assert set(arms) <= set(pressed)
    assert [found["of"] for found in ids(made.regions["picked"], "ask")] == arms[1:], "more replicates of each but the baseline"


def test_without_a_choice_the_baseline_and_the_best_are_shown(screen: Screen) -> None:
    now = screen.record.snapshot()
    assert now is not None
    chosen = comparison.chosen_arms(View(page="compare", phase="flags"), now)
    assert chosen[0] == ArmKey("flags", "baseline")
    assert now.conclusions["flags"].winner in [key.name for key in chosen]


def test_a_trials_page_says_what_differs_and_why_it_failed(screen: Screen, results: Results) -> None:
    failed = results.document()["failed_trials"][0]
    made = screen.page(View(page="trial", trial=failed["signature"]))
    said = everything(made)
    assert "It failed for good: nan" in said
    assert "loss is NaN at step 12" in said
    assert "loss.matching" in words(made.regions["settings"])
    assert "foreground_only" in words(made.regions["settings"])
    assert [found["ask"] for found in ids(made.regions["failure"], "ask")] == ["retry", "retry_reopen"]
    assert screen.page(View(page="trial", trial=failed["signature"][:10])).heading == made.heading, "a unique beginning will do"
    assert screen.page(View(page="trial", trial="no such")).heading == "There is no such page"
    assert screen.page(View(page="nowhere")).heading == "There is no such page"


def test_the_list_is_narrowed_by_state_phase_and_word_and_comes_in_parts(screen: Screen) -> None:
    counts = screen.record.status()["trials"]
    assert f"1 to 25 of {sum(counts.values())} trials" in everything(screen.page(View(page="trials")))
    assert f"26 to 50 of {sum(counts.values())} trials" in everything(screen.page(View(page="trials", part=2)))
    failed = screen.page(View(page="trials", state="failed"))
    assert "1 trial" in words(failed.regions["trials"])
    assert ids(failed.regions["trials"], "ask")[0]["ask"] == "retry"
    assert "No trial fits." in everything(screen.page(View(page="trials", search="no such word")))
    assert "matching / " in everything(screen.page(View(page="trials", phase="matching", search="LOSS IS NAN")))


def test_the_log_shown_is_its_end(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "s").attempt(1)
    assert log_tail(files) is None
    files.directory.mkdir(parents=True)
    files.log.write_bytes("".join(f"line {i} ä\n" for i in range(50_000)).encode() + b"\xff end")
    lines = (log_tail(files) or "").split("\n")
    assert len(lines) == 200
    assert lines[-2:] == ["line 49999 ä", "\ufffd end"]


def test_a_long_message_is_cut_with_a_sign() -> None:
    """The end of a command that was cut off without one named a folder above the one that was meant."""
    assert first_line("one\ntwo") == "one"
    assert first_line(" ") == "no message"
    assert first_line("x" * 300) == "x" * 300
    assert first_line("x" * 301) == "x" * 299 + "…"


def test_labels_of_single_marks_stay_within_the_figure() -> None:
    """They fall away to the left of their mark: plotly leaves out those that reach beyond the right end."""
    arms = {f"mode=a level with a name {i}": (Line("#000000", "solid"), None) for i in range(4)}
    axis = comparison_figure("score", arms, {name: [0.5] for name in arms})["layout"]["xaxis"]
    assert axis["tickangle"] < 0
    assert len(axis["ticktext"]) == 4
    assert all(len(word) <= 19 for word in axis["ticktext"])


def test_names_are_shown_as_they_are_written(planting: Callable[..., Any], tmp_path: Path, record_of: Callable[..., Record]) -> None:
    question = f"{NASTY}?"
    made = planting(tmp_path / "runs", changes={"question": question})
    made.use("flags", Arm(name=NASTY, levels=dict(made.study.baseline)), range(3))
    screen = Screen(record_of(tmp_path / "runs", "planted"), asking.Steering(dict, str, lambda *_: ""), "secret")
    assert screen.page(View()).heading == question
    found = screen.page(View(page="compare", arms=(f"flags/{NASTY}",)))
    assert NASTY in words(found.regions["picked"]), "as text: Dash makes no HTML of it"
    assert "<img" not in json.dumps(Drawn(found.regions["curves"]).leaves), "and plotly gets it escaped"


def test_only_what_has_changed_is_drawn_again(planting: Callable[..., Any], tmp_path: Path, record_of: Callable[..., Record]) -> None:
    made = planting(tmp_path / "runs")
    arm = Arm(name="baseline", levels=dict(made.study.baseline))
    spec = made.use("flags", arm, range(3))[0]
    number = made.begin(spec, 10)
    screen = Screen(record_of(tmp_path / "runs", "planted"), asking.Steering(dict, str, lambda *_: ""), "secret")
    view = View(page="trial", trial=spec.signature)
    first_stamp, first = screen.look(view)
    assert screen.stamp(view) == first_stamp, "nothing happened"
    made.report(spec, number, 20)
    assert screen.stamp(view) != first_stamp
    _, second = screen.look(view)
    before, after = ({name: Drawn(content) for name, content in page.regions.items()} for page in (first, second))
    assert {name: drawn.frame for name, drawn in before.items()} == {name: drawn.frame for name, drawn in after.items()}
    assert before["curves"].leaves != after["curves"].leaves, "the figures alone"
    made.ledger.close()


def test_a_study_without_a_record_says_so_and_a_broken_one_too(tmp_path: Path, record_of: Callable[..., Record]) -> None:
    nothing = {"state": "starting", "said": "starting", "requests": 0}
    screen = Screen(Record(tmp_path, "new", lambda: nothing), asking.Steering(lambda: nothing, str, lambda *_: ""), "secret")
    assert screen.page(View()).heading == "Nothing is on record yet"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "ledger.db").write_text("no database")
    assert "not a database" in everything(screen.page(View()))


# asking


@pytest.mark.parametrize(
    ("client", "host", "method", "headers"),
    [
        ("10.0.0.7", "127.0.0.1:80", "GET", {}),
        (None, "127.0.0.1:80", "GET", {}),
        ("127.0.0.1", "evil.example:80", "GET", {}),
        ("127.0.0.1", "127.0.0.1.evil.example", "GET", {}),
        ("127.0.0.1", "[bad", "GET", {}),
        ("127.0.0.1", "127.0.0.1:80", "POST", {}),
        ("127.0.0.1", "127.0.0.1:80", "POST", {"Origin": "null"}),
        ("127.0.0.1", "127.0.0.1:80", "POST", {"Origin": "http://evil.example"}),
        ("127.0.0.1", "127.0.0.1:80", "POST", {"Origin": "http://127.0.0.1:81"}),
        ("127.0.0.1", "127.0.0.1:80", "POST", {"Origin": "http://127.0.0.1:80", "Sec-Fetch-Site": "cross-site"}),
    ],
)
def test_requests_of_others_are_refused(client: str | None, host: str, method: str, headers: dict[str, str]) -> None:
    assert asking.refusal(client=client, host=host, method=method, headers=headers)


@pytest.mark.parametrize("host", ["127.0.0.1:80", "localhost:9000", "[::1]:80"])
def test_requests_of_this_machines_own_page_are_answered(host: str) -> None:
    headers = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert asking.refusal(client="127.0.0.1", host=host, method="POST", headers=headers) is None
    assert asking.refusal(client="::1", host=host, method="GET", headers={}) is None


def test_another_user_of_this_machine_may_not_ask(tmp_path: Path) -> None:
    with socket.socket() as listener, socket.socket() as mine:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        mine.connect(listener.getsockname())
        with listener.accept()[0]:
            ports = mine.getsockname()[1], listener.getsockname()[1]
            assert not asking.stranger(*ports, os.getuid()), "the kernel's own table"
            rows = [line for table in asking.SOCKETS for line in table.read_text().splitlines()[1:]]
            row = next(line.split() for line in rows if line.split()[1].endswith(f":{ports[0]:04X}") and line.split()[3] == "01")
    table = tmp_path / "tcp"
    table.write_text("head\n" + " ".join([*row[:7], "4711", *row[8:]]) + "\n")
    assert asking.stranger(*ports, 1000, [table])
    assert not asking.stranger(*ports, 4711, [table])
    assert not asking.stranger(ports[0] ^ 1, ports[1], 1000, [table, tmp_path / "none"]), "not known"


@pytest.mark.parametrize("button", [None, {}, {"ask": "erase", "of": ""}, {"ask": ["stop"], "of": ""}, {"ask": "stop", "of": 1}, "stop"])
def test_what_is_no_button_asks_nothing(button: object) -> None:
    assert asking.asked(button) is None


def test_buttons_do_what_the_commands_do(planted: Callable[..., Any]) -> None:
    made = planted()
    arm = Arm(name="baseline", levels=dict(made.study.baseline))
    spec = made.use("flags", arm, range(3))[0]
    made.fail(spec)
    runs = made.root

    def again(trial: str | None, reopen: bool) -> str:
        return str(retry(runs, trial, "planted", failed=trial is None, reopen=reopen)["said"])

    steering = asking.Steering(dict, lambda: "", again)
    said = asking.Asked("retry", spec.signature).perform(steering)
    assert "a fresh row of attempts for flags/baseline/r0" in said
    assert [(found.what, found.trials) for found in waiting(runs, "planted")] == [("retry", (spec.signature,))]
    assert "no such trial" in asking.Asked("retry", "ffff").perform(steering), "what cannot be done is said"
    assert asking.Asked("replicates", "flags/a").perform(steering) == "This study cannot be asked for that."
    with pytest.raises(StudyError):
        again("ffff", False)


# the server


@pytest.fixture
def client(screen: Screen) -> Iterator[Any]:
    server = application(screen)
    with server.test_client() as found:
        yield found


def test_the_server_answers_this_machine_alone_and_loads_nothing_from_elsewhere(client: Any) -> None:
    page = client.get("/compare?arm=x", **LOCAL)
    assert page.status_code == 200
    text = page.get_data(as_text=True)
    assert 'src="http' not in text
    assert 'href="http' not in text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert client.get("/", base_url="http://evil.example", environ_base=LOCAL["environ_base"]).status_code == 403
    assert client.get("/", base_url=LOCAL["base_url"], environ_base={"REMOTE_ADDR": "192.168.1.4"}).status_code == 403
    assert client.post("/_dash-update-component", json={}, **LOCAL).status_code == 403, "a page of another origin"


def test_a_button_works_with_the_pages_token_alone(client: Any) -> None:
    done = press(client, {"ask": "replicates", "of": "flags/a/b"})
    assert told(done) == "more of a/b in flags"
    assert "of an earlier dashboard" in told(press(client, {"ask": "stop", "of": ""}, token="guess"))
    assert press(client, {"ask": "erase", "of": ""}).status_code == 204


def test_a_trials_page_shows_its_pictures_with_the_captions_of_their_files(planted: Callable[..., Any], record_of: Any) -> None:
    study = planted()
    study.run()
    results = Results(study.root, "planted")
    signature = next(use.signature for use in results._uses if results._result(use.signature))
    folder = TrialFiles(study.root, signature).attempt(1).directory
    said = PngInfo()
    said.add_itxt("Title", f"3 of 64 prototypes {NASTY}")
    said.add_itxt("Description", "A row for each.")
    Image.new("RGB", (8, 8)).save(folder / "prototypes.png", pnginfo=said)
    (folder / "broken.png").write_bytes(b"no picture")
    record = record_of(study.root, "planted")
    made = trial.page(record, View(page="trial", trial=signature), record.snapshot())
    assert made is not None
    assert f"3 of 64 prototypes {NASTY} A row for each." in words(made.regions["pictures"])
    assert "broken.png" in words(made.regions["pictures"])


def test_pictures_of_trials_are_shown_and_no_other_file(client: Any, results: Results) -> None:
    signature = next(use.signature for use in results._uses if results._result(use.signature))
    shown = client.get(f"/file/{signature}/1/gallery.png", **LOCAL)
    assert shown.status_code == 200
    assert shown.mimetype == "image/png"
    shown.close()
    for path in (
        f"/file/{signature}/1/outcome.json",
        f"/file/{signature}/1/..%2f..%2ftrial.json",
        f"/file/{signature}/9/gallery.png",
        "/file/..%2f..%2f/1/gallery.png",
        "/file/unknown/1/gallery.png",
    ):
        answer = client.get(path, **LOCAL)
        assert answer.status_code == 404 or answer.mimetype == "text/html", path
