"""The study's viewer as the dashboard runs it: real processes, their pages, and who gets which file."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from pressing import LOCAL, press, told

from ablate.errors import AblateError
from ablate.study import Arm
from ablate.trial import TrialFiles
from dashboards.live import asking
from dashboards.live.address import View
from dashboards.live.app import Screen
from dashboards.live.record import Record
from dashboards.live.serve import application
from dashboards.live.viewing import Viewing, viewer_words

SHOW = """
import pathlib, sys
_, step, *what = sys.argv
with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
    calls.write(step + "\\n")
print("looking at", step)
pathlib.Path("crops.html").write_text(f"<h1>step {step}</h1>{what}")
"""


@dataclass
class Viewed:
    """A study with one trial that has reported steps 0 to 10, and its viewers."""

    record: Record
    viewing: Viewing
    trial: str

    def ended(self) -> None:
        """Until no viewer runs."""
        for thread in [one for one in threading.enumerate() if one.name.startswith("viewer of")]:
            thread.join(30)
            assert not thread.is_alive()

    def seen(self) -> Any:
        return self.viewing.of(self.trial)

    def screen(self, *, stranger: bool = False) -> Screen:
        steering = asking.Steering(dict, str, lambda *_: "", view=self.viewing.start, view_end=self.viewing.end)
        return Screen(self.record, steering, "secret", lambda: stranger, self.viewing)

    def page(self) -> str:
        made = self.screen().page(View(page="trial", trial=self.trial))
        return json.dumps(made.regions["views"], default=lambda part: part.to_plotly_json()["props"], ensure_ascii=False)


@pytest.fixture
def viewed(planted: Callable[..., Any], record_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plants a study with such a viewer; the dashboard is called in a folder that has `show.py`."""
    folder = tmp_path / "called here"
    folder.mkdir()
    (folder / "show.py").write_text(SHOW)
    monkeypatch.chdir(folder)
    made: list[Viewed] = []

    def make(viewer: object = ("{python}", "{folder}/show.py", "{step}")) -> Viewed:
        trainer = {"callable": "trainer.train:train", "viewer": list(viewer) if isinstance(viewer, tuple) else viewer}
        study = planted(changes={"trainer": trainer})
        spec = study.use("flags", Arm(name="baseline", levels=dict(study.study.baseline)), range(3))[0]
        study.begin(spec, 10)
        study.ledger.close()
        record = record_of(study.root, "planted")
        made.append(Viewed(record, Viewing(record).__enter__(), spec.signature))
        return made[-1]

    yield make
    for one in made:
        one.viewing.__exit__(None, None, None)


def test_the_command_is_the_one_that_the_study_names_with_its_places_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = TrialFiles(tmp_path / "my runs", "s").attempt(1)
    named = {"viewer": ["python", "-m", "trainer", "crops", "--view", "run={directory}"]}
    assert viewer_words(named, files) == ["python", "-m", "trainer", "crops", "--view", f"run={files.directory}"]
    assert viewer_words({"viewer": "show '{directory}'"}, files) == ["show", str(files.directory)]
    assert viewer_words({}, files) is None
    filled = {"viewer": "{python} {folder}/v.py {config} --seed {seed} --step {step} {other}"}
    whole = viewer_words(filled, files, config=tmp_path / "trial.json", seed=3, step=40)
    assert whole == [sys.executable, f"{tmp_path}/v.py", str(tmp_path / "trial.json"), "--seed", "3", "--step", "40", "{other}"]
    of_command = viewer_words({"viewer": ["show", "{directory}"], "command": ["train"]}, files)
    assert of_command == ["show", f"{files.directory}/command"], "as in the command itself"
    beside = viewer_words({"viewer": "show {directory}"}, TrialFiles(Path("runs"), "s").attempt(1))
    assert beside == ["show", f"{tmp_path}/runs/trials/s/attempts/0001"], "from whatever folder it is run"


def test_the_page_is_made_in_a_folder_of_its_own_kept_and_not_made_twice(viewed: Callable[..., Viewed]) -> None:
    one = viewed()
    before = one.viewing.changes
    assert one.viewing.start(one.trial, "5") == "Step 5: its viewer was started. The link to its page comes when it has ended."
    one.ended()
    assert one.viewing.changes == before + 2, "the page is drawn anew at both"
    assert one.viewing.start(one.trial, "5") == "Step 5: its page is there already."
    assert one.viewing.start(one.trial, "").startswith("Step 10: its viewer was started"), "none: the last that it reported"
    one.ended()
    assert Path("calls").read_text() == "5\n10\n"
    assert not Path("crops.html").exists(), "nothing is written where the dashboard was called"
    found = {seen.step: seen for seen in one.seen()}
    assert found.keys() == {5, 10}
    assert all(seen.shows and seen.pages == ["crops.html"] and not seen.fault for seen in found.values())
    with application(one.screen()).test_client() as client:
        answer = client.get(f"/view/{one.trial}/{found[5].key}/crops.html", **LOCAL)
        assert answer.get_data(as_text=True) == "<h1>step 5</h1>[]"
        policy = answer.headers["Content-Security-Policy"]
        answer.close()
    assert policy.startswith("sandbox allow-scripts allow-downloads; default-src 'none'; "), "it can neither ask this server nor read it"
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy
    assert f"/view/{one.trial}/{found[5].key}/crops.html" in one.page()
    with Viewing(one.record) as later:
        assert [seen.step for seen in later.of(one.trial)] == [10, 5], "and the next dashboard has them"


@pytest.mark.parametrize("step", ["11", "-1", "5.5", "x", "²", "99999999999", "../5"])
def test_a_step_that_the_trial_has_not_reported_runs_nothing(viewed: Callable[..., Viewed], step: str) -> None:
    one = viewed()
    with pytest.raises(AblateError, match="expected 0 to 10, the last that the trial reported, but got"):
        one.viewing.start(one.trial, step)
    assert one.seen() == []


def test_what_cannot_be_run_says_why(viewed: Callable[..., Viewed]) -> None:
    one = viewed(None)
    with pytest.raises(AblateError, match=r"the study names no trainer\.viewer"):
        one.viewing.start(one.trial, "")
    with pytest.raises(AblateError, match="no such trial"):
        one.viewing.start("ffff", "")
    assert one.page() == "null", "no button without a viewer"


def test_one_process_for_a_trial_and_step_which_ends_with_the_dashboard(viewed: Callable[..., Viewed]) -> None:
    """The viewer says who it is and then waits for ever."""
    os.mkfifo("said")
    one = viewed(("{python}", "-c", "import os, signal; open('{folder}/said', 'w').write(str(os.getpid())); signal.pause()"))
    one.viewing.start(one.trial, "5")
    process = psutil.Process(int(Path("said").read_text()))
    assert one.viewing.start(one.trial, "5") == "Step 5: its viewer runs already."
    assert len(one.seen()) == 1
    assert "the viewer runs since" in one.page()
    key = one.seen()[0].key
    assert one.viewing.end(one.trial, key) == "Step 5: its viewer is ended."
    one.ended()
    assert not process.is_running()
    assert one.seen() == []
    one.viewing.start(one.trial, "5")
    process = psutil.Process(int(Path("said").read_text()))
    one.viewing.__exit__(None, None, None)
    assert not process.is_running()
    assert list((one.record.directory / "views" / one.trial).iterdir()) == [], "nothing half written is left"


def test_a_viewer_that_fails_shows_its_last_lines_and_its_command_and_runs_again(viewed: Callable[..., Viewed]) -> None:
    one = viewed(("{python}", "-c", "import sys; [print('line', n) for n in range(99)]; sys.exit('no <b>such</b> scan')"))
    one.viewing.start(one.trial, "")
    one.ended()
    (seen,) = one.seen()
    assert seen.fault == "It ended with exit code 1."
    lines = seen.said.split("\n")
    assert lines[-2:] == ["line 98", "no <b>such</b> scan"]
    assert len(lines) == 40
    page = one.page()
    assert "no <b>such</b> scan" in page
    assert "sys.exit(" in page, "the command"
    assert one.viewing.start(one.trial, "").startswith("Step 10: its viewer was started."), "a failure is not kept for an answer"
    one.ended()
    assert len(one.seen()) == 1


@pytest.mark.parametrize(
    ("viewer", "said"),
    [
        (("no-such-program", "{step}"), "It could not be started: "),
        (("{python}", "-c", "import os; os.kill(os.getpid(), 9)"), "It ended with signal 9."),
        (("{python}", "-c", "pass"), "expected a file NAME.html in the folder that it runs in but got nothing. Let trainer.viewer write"),
        (("{python}", "-c", "open('a.txt', 'w'); open('../out.html', 'w')"), "in the folder that it runs in but got a.txt. Let"),
    ],
)
def test_a_viewer_without_a_page_says_what_was_expected(viewed: Callable[..., Viewed], viewer: tuple[str, ...], said: str) -> None:
    one = viewed(viewer)
    one.viewing.start(one.trial, "")
    one.ended()
    (seen,) = one.seen()
    assert said in seen.fault
    assert seen.pages == []
    assert said in one.page()


def test_no_shell_ever_reads_the_command(viewed: Callable[..., Viewed]) -> None:
    words = ["$(touch gone)", "`touch gone`", "; touch gone", "a'b\"c", "&& touch gone > x.html"]
    one = viewed(("{python}", "{folder}/show.py", "{step}", *words))
    one.viewing.start(one.trial, "0")
    one.ended()
    (seen,) = one.seen()
    assert (seen.folder / "written" / "crops.html").read_text() == f"<h1>step 0</h1>{words}"
    assert list(one.record.directory.rglob("gone")) == []
    assert not Path("gone").exists()


def test_no_address_leads_out_of_the_folder(viewed: Callable[..., Viewed], tmp_path: Path) -> None:
    (tmp_path / "secret.html").write_text("secret")
    script = tmp_path / "links.py"
    script.write_text(
        f"import os\nos.symlink({str(tmp_path / 'secret.html')!r}, 'link.html')\nos.symlink({str(tmp_path)!r}, 'deep')\n"
        "os.mkdir('in.html')\nopen('own.html', 'w').write('own')\nopen('own.txt', 'w').write('secret')\n"
    )
    one = viewed(("{python}", str(script)))
    one.viewing.start(one.trial, "")
    one.ended()
    (seen,) = one.seen()
    assert seen.pages == ["own.html"]
    (one.record.directory / "views" / "own.html").write_text("secret")
    names = ["link.html", "deep/secret.html", "in.html", "own.txt", "view.json", "../view.json", "../output.txt", "..", "."]
    names += ["", "own.html/", "own.html\0", "../../../own.html", str(tmp_path / "secret.html"), "..\\view.json", "~/x.html"]
    tries = [(one.trial, seen.key, name) for name in names]
    tries += [(one.trial, "..", "own.html"), (one.trial, ".", "own.html"), ("..", "views", "own.html"), ("..", seen.key, "own.html")]
    tries += [(one.trial, "*", "own.html"), (one.trial[:8], seen.key, "own.html"), ("f" * 64, seen.key, "own.html")]
    with application(one.screen()).test_client() as client:
        for parts in tries:
            for safe in ("", "/"):
                path = "/".join(quote(part, safe=safe) for part in ("/view", *parts)).replace("%2Fview", "/view")
                for twice in (path, path.replace("%", "%25")):
                    answer = client.get(twice, **LOCAL)
                    assert "secret" not in answer.get_data(as_text=True), twice
                    # Dash answers any other path with its own page.
                    assert answer.status_code in (308, 404) or "_dash-renderer" in answer.get_data(as_text=True), twice
                    answer.close()
        answer = client.get(f"/view/{one.trial}/{seen.key}/own.html", **LOCAL)
        assert answer.get_data(as_text=True) == "own"
        answer.close()
        others = {**LOCAL, "environ_base": {"REMOTE_ADDR": "192.168.1.4"}}
        assert client.get(f"/view/{one.trial}/{seen.key}/own.html", **others).status_code == 403
        assert client.get(f"/view/{one.trial}/{seen.key}/own.html", **{**LOCAL, "base_url": "http://evil.example"}).status_code == 403


def test_only_this_pages_own_user_may_run_it_and_is_shown_what_will_run(viewed: Callable[..., Viewed]) -> None:
    one = viewed()
    button = {"ask": "view", "of": f"{one.trial}/5"}
    with application(one.screen()).test_client() as client:
        assert "of an earlier dashboard" in told(press(client, button, token="guess"))
        answer = client.post("/_dash-update-component", json={}, headers={"Origin": "http://evil.example"}, **LOCAL)
        assert answer.status_code == 403
    with application(one.screen(stranger=True)).test_client() as client:
        assert told(press(client, button)) == "Only the user who started this dashboard may ask that."
    assert one.seen() == []
    asked = asking.asked(button)
    assert asked is not None
    question = one.screen().question(asked)
    assert question.startswith("Run the viewer of planted for flags / baseline / replicate 0, on this machine?\n\n")
    assert question.endswith(" 5")
    assert "show.py" in question
    with application(one.screen()).test_client() as client:
        assert told(press(client, button)).startswith("Step 5: its viewer was started.")
        one.ended()
        assert "expected 0 to 10" in told(press(client, {**button, "of": f"{one.trial}/77"}))
    assert [seen.step for seen in one.seen()] == [5]
    without = replace(one.screen(), steering=asking.Steering(dict, str, lambda *_: ""))
    assert asked.perform(without.steering) == "This study cannot be asked for that."
