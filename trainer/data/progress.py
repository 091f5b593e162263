"""How far a long reading is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FIRST_S, _EVERY_S = 2.0, 10.0


@contextmanager
def shown(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """Something to tell how many are done, of how many, and how many of them are bad; written to the standard error.

    Where nobody looks (no terminal) nothing is said in the first two seconds, then a line each ten.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[bad]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None, bad="")
            yield lambda done, count, bad: bar.update(task, completed=done, total=count, bad=f"{bad} bad" if bad else "")
        return
    began, next_s = time.monotonic(), _FIRST_S

    def tell(done: int, count: int, bad: int) -> None:
        nonlocal next_s
        passed = time.monotonic() - began
        if passed >= next_s:
            next_s = passed + _EVERY_S
            left = passed / done * (count - done)
            print(f"{what}: {done} of {count} scans, {bad} bad, {left:.0f} s left", file=sys.stderr, flush=True)

    yield tell
