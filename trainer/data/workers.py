"""Processes that read scans, one scan at a time each; a file that ends its reader is named and costs nobody else.

Own processes and not a pool of `multiprocessing`: a script that asks for scans need not guard its main module, and a reader that is
killed (by a decoder's fault, or for memory) leaves the others and the index as they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from trainer.config import Data
from trainer.config.fields import Phantom
from trainer.data.errors import AccessError, CacheError, DataError
from trainer.data.finding import Source
from trainer.data.reading import Record, read


@dataclass(frozen=True)
class Answer:
    """What came of reading a scan: its record, or its problems."""

    record: Record | None
    problems: tuple[str, ...] = ()
    lasting: bool = True
    """The files would have to change for another answer."""


def answer(source: Source, data: Data) -> Answer:
    """Read a scan here.

    Raises:
        CacheError: Nothing can be kept, whichever scan it is.
    """
    try:
        return Answer(read(source, data))
    except CacheError:
        raise
    except DataError as error:
        return Answer(None, error.problems, lasting=not isinstance(error, AccessError))
    except MemoryError:
        problem = f"{source.files[0]}: expected a volume that fits into memory twice but it does not. Use fewer workers or more memory."
        return Answer(None, (problem,), lasting=False)


class Workers:
    """Readers for as many threads as ask; `inside` reads in this process."""

    def __init__(self, data: Data, inside: bool) -> None:
        self._data, self._inside = data, inside
        self._mine = threading.local()
        self._all: list[subprocess.Popen[str]] = []
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._closed = True
            for process in self._all:
                process.kill()
        for process in self._all:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def read(self, source: Source) -> Answer:
        """Read a scan in the asking thread's process.

        Raises:
            CacheError: Nothing can be kept.
        """
        if self._inside:
            return answer(source, self._data)
        process = self._process()
        asked = {"name": source.name, "files": [str(file) for file in source.files], "series": source.series}
        asked |= {"labels": [str(file) for file in source.labels], "organs": source.organs}
        line = ""
        with suppress(BrokenPipeError):
            print(json.dumps([asked, asdict(self._data)]), file=process.stdin, flush=True)
            line = process.stdout.readline() if process.stdout is not None else ""
        if not line:
            process.wait()
            del self._mine.process
            said = f"its reader ended ({_end(process.returncode)})"
            problem = f"{source.files[0]}: expected a readable volume but {said}. The file is damaged, or memory too small: leave it out."
            return Answer(None, (problem,), lasting=False)
        told = json.loads(line)
        if "cache" in told:
            raise CacheError(told["cache"])
        record = None if told["record"] is None else Record.from_json(told["record"])
        return Answer(record, tuple(told["problems"]), told["lasting"])

    def _process(self) -> subprocess.Popen[str]:
        known: subprocess.Popen[str] | None = getattr(self._mine, "process", None)
        if known is None:
            with self._lock:
                if self._closed:
                    raise RuntimeError("index: asked for a scan after its end.")
                known = subprocess.Popen(
                    [sys.executable, "-m", "trainer.data.workers"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=_environment(),
                )
                self._all.append(known)
            self._mine.process = known
        return known


def _environment() -> dict[str, str]:
    """The modules that this process sees, and one thread: the processes are the parallel part."""
    paths = [str(Path(path).resolve()) for path in sys.path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _end(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def serve(asked: IO[str], told: IO[str]) -> None:
    """Answer scans, one JSON line each, until there are no more."""
    for line in asked:
        one, settings = json.loads(line)
        paths = {name: tuple(Path(file) for file in one[name]) for name in ("files", "labels")}
        data = Data(**(settings | {"phantom": Phantom(**settings["phantom"])}))
        reply: dict[str, Any]
        try:
            came = answer(Source(**(one | paths)), data)
            reply = {"record": came.record and came.record.as_json(), "problems": came.problems, "lasting": came.lasting}
        except CacheError as error:
            reply = {"cache": error.problems}
        print(json.dumps(reply), file=told, flush=True)


if __name__ == "__main__":
    # Whatever a decoder prints goes elsewhere than the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)
