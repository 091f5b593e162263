"""Opening and indexing 50 scans for the first time and again, beside MONAI's PersistentDataset and nibabel with scipy by hand.

    PYTHONPATH=. python benchmarks/indexing.py [REPETITIONS]

All three read compressed NIfTI files, turn them to common axes, resample to 3 mm and keep int16, in two processes. Ours also tests the
compressed data's check sums, hashes the contents, judges whether values are Hounsfield units and finds equal files. Each measure is a
process of its own: imports are over before the clock starts. Memory is the greatest sum over the process and its children of the
proportional set size (shared pages counted once), asked every 50 ms, beyond what the process held after its imports.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.side import ROOT, Answer, Side, have_peers, machine, ratios, spread

SIDES = {
    "ablate's trainer": ("indexing_ours", False),
    "MONAI PersistentDataset": ("indexing_monai", True),
    "nibabel + scipy": ("indexing_hand", True),
}
SPACING_MM = 3.0
LOOK_S = 0.05


def held_mib(pid: int) -> float:
    """Proportional set size of a process and all below it."""
    found, mine = 0, psutil.Process(pid)
    for process in (mine, *mine.children(recursive=True)):
        with suppress(psutil.Error):
            found += process.memory_full_info().pss
    return found / 2**20


@contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """Memory in MiB as it was seen while the context lasts."""
    seen, ended = [held_mib(pid)], threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            seen.append(held_mib(pid))

    looker = threading.Thread(target=look)
    looker.start()
    try:
        yield seen
    finally:
        ended.set()
        looker.join()


def once(script: str, peer: bool, folder: Path, kept: Path) -> Answer:
    """Seconds, CPU seconds and MiB of one pass in a new process."""
    with Side(script, peer=peer, settings={"folder": str(folder), "kept": str(kept), "spacing_mm": SPACING_MM}) as side:
        side.ask(ready=True)
        with watched(side.pid) as seen:
            found = side.ask()
    return found | {"memory_mib": max(seen) - seen[0], "whole_mib": max(seen)}


def measure(folder: Path, repetitions: int, *, peers: bool = True) -> dict[str, dict[str, list[Answer]]]:
    """First and second passes, by who."""
    who = {name: side for name, side in SIDES.items() if peers or not side[1]}
    found: dict[str, dict[str, list[Answer]]] = {name: {"first": [], "again": []} for name in who}
    names = list(who)
    for repetition in range(repetitions):
        for name in names[repetition % len(names) :] + names[: repetition % len(names)]:
            with tempfile.TemporaryDirectory(prefix="kept-") as kept:
                for which in ("first", "again"):
                    found[name][which].append(once(*who[name], folder, Path(kept)))
    return found


def scans(folder: Path, count: int) -> str:
    """Write them in a process of its own; says what they are."""
    command = [sys.executable, str(ROOT / "benchmarks/sides/fifty.py"), str(folder), str(count)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.strip()


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="scans-") as folder:
        what = scans(Path(folder), 50)
        found = measure(Path(folder), repetitions, peers=have_peers())
    print(f"{what}. {machine(repetitions)}\n")
    print("| | pass | s (range) | CPU s | MiB beyond imports | MiB with imports | ours, times this one: by wall (range) | by CPU |")
    print("| --- " * 8 + "|")
    for which in ("first", "again"):
        ours = found["ablate's trainer"][which]
        for name, passes in found.items():
            answers = passes[which]
            seconds = spread([one["wall_s"] for one in answers], 2)
            middle = [statistics.median(one[of] for one in answers) for of in ("cpu_s", "memory_mib", "whole_mib")]
            times = spread(ratios(ours, answers, "wall_s"), 2)
            by_cpu = statistics.median(ratios(ours, answers, "cpu_s"))
            print(f"| {name} | {which} | {seconds} | {middle[0]:.2f} | {middle[1]:.0f} | {middle[2]:.0f} | {times} | {by_cpu:.2f} |")


if __name__ == "__main__":
    main()
