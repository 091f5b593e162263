"""`ablate doctor`: what this machine has, and what would fail on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from rich.console import Console

PACKAGES = ("torch", "optuna", "mlflow", "hydra-core", "pandas", "plotly", "submitit", "SimpleITK", "scipy", "sqlalchemy")
LEAST_FREE_GIB = 2.0


class Check(TypedDict):
    """One thing looked at: what it is, whether it will do, what was seen and what to do."""

    name: str
    ok: bool
    seen: str
    mend: str


def checks(runs: Path) -> list[Check]:
    """Look at Python, packages, processors, GPUs, disk, the runs folder, MLflow's store and Slurm."""
    return [
        _python(),
        *(_package(name) for name in PACKAGES),
        _processors(),
        _gpu(),
        _disk(runs),
        _writable(runs),
        _mlflow(runs),
        _slurm(),
    ]


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check(name="python", ok=ok, seen=sys.version.split()[0], mend="" if ok else "Install Python 3.11 or newer.")


def _package(name: str) -> Check:
    try:
        return Check(name=name, ok=True, seen=metadata.version(name), mend="")
    except metadata.PackageNotFoundError:
        return Check(name=name, ok=False, seen="not installed", mend=f"Run `make run`, or `pip install {name}`.")


def _processors() -> Check:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check(name="processors", ok=True, seen=f"{count}", mend="" if count >= 2 else "One trial at a time: set workers=1.")


def _gpu() -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check(name="gpu", ok=True, seen="none: trials run on the processor", mend="")
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    ok = listed.returncode == 0
    return Check(name="gpu", ok=ok, seen=listed.stdout.strip() or listed.stderr.strip(), mend="" if ok else "Mend the NVIDIA driver.")


def _disk(runs: Path) -> Check:
    place = next(p for p in (runs.absolute(), *runs.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 2**30
    return Check(
        name="disk",
        ok=free >= LEAST_FREE_GIB,
        seen=f"{free:.1f} GiB free",
        mend="" if free >= LEAST_FREE_GIB else "Free some space, or use --runs.",
    )


def _writable(runs: Path) -> Check:
    place = next(p for p in (runs.absolute(), *runs.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            return Check(name="runs folder", ok=True, seen=str(runs), mend="")
    except OSError as error:
        return Check(name="runs folder", ok=False, seen=f"{place}: {error.strerror}", mend="Choose a folder you may write with --runs.")


def _mlflow(runs: Path) -> Check:
    from ablate.tracking.store import store_state

    ok, seen = store_state(runs)
    return Check(name="mlflow store", ok=ok, seen=seen, mend="" if ok else "Check MLFLOW_TRACKING_URI; runs go on without MLflow.")


def _slurm() -> Check:
    return Check(name="slurm", ok=True, seen="sbatch found" if shutil.which("sbatch") else "not here: trials run on this machine", mend="")


def print_checks(found: list[Check]) -> None:
    """A line a check."""
    console = Console()
    for check in found:
        mark = "ok  " if check["ok"] else "FAIL"
        line = f"{mark} {check['name']}: {check['seen']}{'  ' + check['mend'] if check['mend'] else ''}"
        console.print(line, markup=False, highlight=False, style="" if check["ok"] else "red")
