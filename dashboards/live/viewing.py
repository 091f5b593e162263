"""What a trial saw: the command that the study names as `trainer.viewer`, run for a trial and a step, and the page that it wrote.

The only room of the dashboard that writes, and only below `runs/<study>/views/`. A command runs in a folder of its own, as an argument
vector; what it wrote is kept with how it ended, so that the same command is not run twice. None outlives the dashboard.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Any

from ablate.command import DIRECTORY, filled, vector
from ablate.errors import AblateError
from ablate.execution.process import Process
from ablate.trial import AttemptFiles, TrialFiles
from dashboards.live.record import Record, Snapshot, tail_of

PAGES = (".html", ".htm")
"""Endings of what a viewer is expected to write."""

MADE = "view.json"
"""How it ended; there only where it did."""

OUTPUT = "output.txt"
WRITTEN = "written"
"""The folder that a command runs in."""

LINES = 40
"""Of what it printed, shown where it failed."""

KEY = re.compile(r"[0-9a-f]{16}")

NAMED = 8
"""Files of it, named where none is a page."""


def viewer_words(
    trainer: Mapping[str, Any], files: AttemptFiles, *, config: Path | None = None, seed: int | None = None, step: int | None = None
) -> list[str] | None:
    """The command that shows what a trial saw, its places filled; none: the study names none.

    `{directory}` is the attempt's folder, of a trainer that is a command the folder that its command has by that name.
    """
    named = trainer.get("viewer")
    if not named:
        return None
    directory = files.directory / DIRECTORY if trainer.get("command") is not None else files.directory
    values = {"directory": str(directory.absolute()), "python": sys.executable, "step": str(step or 0), "folder": str(Path.cwd())}
    values |= {} if config is None else {"config": str(config.absolute())}
    values |= {} if seed is None else {"seed": str(seed)}
    return [filled(word, values) for word in vector(named)]


def command_of(now: Snapshot, signature: str, step: int | None) -> list[str] | None:
    """The viewer's command for a trial; none: the study names none, or no attempt has begun."""
    files, uses = now.files(signature), now.places.get(signature, [])
    if files is None:
        return None
    spec, seed = TrialFiles(now.root, signature).spec, uses[0].replicate if uses else None
    return viewer_words(now.study.trainer.model_dump(), files, config=spec, seed=seed, step=step)


@dataclass(frozen=True)
class Seen:
    """A viewer's command that runs or has run."""

    key: str
    """A name for the command, the same for the same words."""
    step: int
    command: Sequence[str]
    began: float
    seconds: float | None = None
    """None: it runs."""
    status: int | None = None
    """Exit code, or minus the signal that ended it; none: it runs, or never started."""
    problem: str = ""
    """Why it could not be started."""
    folder: Path | None = None

    @property
    def pages(self) -> list[str]:
        """The pages that it wrote, by name: files that lie in its folder themselves."""
        return sorted(name for name in self.written if name.lower().endswith(PAGES))

    @property
    def written(self) -> list[str]:
        """Every file that lies in its folder; links are none."""
        try:
            found = list((self.folder / WRITTEN).iterdir()) if self.folder is not None else []
        except OSError:
            return []
        return [path.name for path in found if path.is_file() and not path.is_symlink()]

    @property
    def shows(self) -> bool:
        """Whether it did what it should."""
        return self.status == 0 and bool(self.pages)

    @property
    def said(self) -> str:
        """The last lines that it printed."""
        text = None if self.folder is None else tail_of(self.folder / OUTPUT)
        return "\n".join((text or "").rstrip().split("\n")[-LINES:])

    @property
    def fault(self) -> str:
        """What went wrong, and what was expected; empty: it runs, or it shows a page."""
        if self.seconds is None or self.shows:
            return ""
        if self.problem:
            return f"It could not be started: {self.problem}."
        if self.status != 0:
            ended = "was ended" if self.status is None else f"ended with {'exit code' if self.status > 0 else 'signal'} {abs(self.status)}"
            return f"It {ended}."
        others = sorted(self.written)
        got = f"{', '.join(others[:NAMED])}{' …' if len(others) > NAMED else ''}" if others else "nothing"
        mend = "Let trainer.viewer write its page under a name without a folder, such as crops.html."
        return f"It wrote no page: expected a file NAME.html in the folder that it runs in but got {got}. {mend}"


@dataclass
class Running:
    """A command that has not ended."""

    seen: Seen
    process: Process
    thread: Thread
    dropped: bool = False
    """Whether somebody ended it: then nothing of it is kept."""


class Viewing:
    """The viewers of a study's trials; as a context, none runs on afterwards."""

    def __init__(self, record: Record) -> None:
        self._record, self._root = record, record.directory.absolute() / "views"
        self._running: dict[tuple[str, str], Running] = {}
        self._lock = Lock()
        self.changes = 0
        """Another one when a command has begun or ended."""

    def __enter__(self) -> Viewing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            left = list(self._running.values())
            for one in left:
                one.dropped = True
                one.process.kill()
        for one in left:
            one.thread.join()

    def start(self, signature: str, step: str) -> str:
        """Run the viewer for a trial, or find what it left before.

        Args:
            step: As it was typed; empty: the last that the trial reported.

        Returns:
            A sentence of what happens.

        Raises:
            AblateError: There is no such trial or step, or no viewer.
        """
        wanted, command = self._asked(signature, step)
        key = _key(command)
        with self._lock:
            if (signature, key) in self._running:
                return f"Step {wanted}: its viewer runs already."
            kept = self._kept(signature, key)
            if kept is not None and kept.shows:
                return f"Step {wanted}: its page is there already."
            self._begin(signature, Seen(key, wanted, command, time.time()))
            return f"Step {wanted}: its viewer was started. The link to its page comes when it has ended."

    def end(self, signature: str, key: str) -> str:
        """End a command that runs, now; a sentence of it."""
        with self._lock:
            one = self._running.get((signature, key))
            if one is None:
                return "That viewer has ended already."
            one.dropped = True
            one.process.kill()
        return f"Step {one.seen.step}: its viewer is ended."

    def words(self, signature: str, step: str) -> str:
        """What would run, as one would type it; empty where nothing can."""
        try:
            return shlex.join(self._asked(signature, step)[1])
        except AblateError:
            return ""

    def of(self, signature: str) -> list[Seen]:
        """All that runs for a trial, then all that has ended, the latest first."""
        with self._lock:
            running = [one.seen for (whose, _), one in self._running.items() if whose == signature]
        keys = {one.key for one in running}
        try:
            found = {path.name for path in (self._root / signature).iterdir() if KEY.fullmatch(path.name)}
        except OSError:
            found = set()
        kept = [one for key in found - keys if (one := self._kept(signature, key)) is not None]
        return [*sorted(running, key=lambda one: one.began), *sorted(kept, key=lambda one: -one.began)]

    def page(self, signature: str, key: str, name: str) -> Path | None:
        """A page that a viewer wrote, by names that are compared with what is there and never made into a path; none: no such page."""
        now = self._record.snapshot()
        if now is None or signature not in now.records:
            return None
        one = next((one for one in self.of(signature) if one.key == key), None)
        return one.folder / WRITTEN / name if one is not None and one.folder is not None and name in one.pages else None

    def _asked(self, signature: str, step: str) -> tuple[int, list[str]]:
        now = self._record.snapshot()
        if now is None or signature not in now.records:
            raise AblateError(f"{signature[:12]}: no such trial in {self._record.name}.")
        last = self._record.stream(now.files(signature)).step or 0
        if step and not (step.isascii() and step.isdigit() and len(step) < 10 and int(step) <= last):
            raise AblateError(f"step: expected 0 to {last}, the last that the trial reported, but got {step[:20]}.")
        wanted = int(step) if step else last
        command = command_of(now, signature, wanted)
        if command is None:
            raise AblateError(f"{self._record.name}: the study names no trainer.viewer (docs/STUDY.md), or the trial has not begun.")
        return wanted, command

    def _kept(self, signature: str, key: str) -> Seen | None:
        folder = self._root / signature / key
        try:
            return Seen(**json.loads((folder / MADE).read_text(encoding="utf-8")), folder=folder)
        except (OSError, ValueError, TypeError):
            return None

    def _begin(self, signature: str, seen: Seen) -> None:
        place = self._root / signature
        # `python -m trainer` finds what lies in the folder of the call, as it does in a terminal there.
        paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            place.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{seen.key}.", dir=place))
            (folder / WRITTEN).mkdir()
            process = Process(seen.command, folder / WRITTEN, os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, folder / OUTPUT)
        except OSError as error:
            raise AblateError(f"{place}: expected a folder for the viewer's page but got: {error}. See that it can be written.") from error
        thread = Thread(target=self._follow, args=[signature, seen, folder, process], name=f"viewer of {signature[:8]}")
        self._running[signature, seen.key] = Running(seen, process, thread)
        self.changes += 1
        thread.start()

    def _follow(self, signature: str, seen: Seen, folder: Path, process: Process) -> None:
        began = time.monotonic()
        with process:
            while (end := process.wait(60.0)) is None:
                pass
        ended = {**asdict(seen), "seconds": time.monotonic() - began, "status": end.status, "problem": end.problem}
        del ended["folder"]
        with self._lock:
            dropped = self._running[signature, seen.key].dropped
            try:
                if not dropped:
                    (folder / MADE).write_text(json.dumps(ended), encoding="utf-8")
                    shutil.rmtree(place := folder.parent / seen.key, ignore_errors=True)
                    folder.rename(place)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                del self._running[signature, seen.key]
                self.changes += 1


def _key(command: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(command)).encode()).hexdigest()[:16]
