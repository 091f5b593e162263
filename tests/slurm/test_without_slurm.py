"""The tests of Slurm themselves, on a machine without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_where_they_must_run_they_fail_without_it(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "slurm",
        str(Path(__file__).with_name("test_queue.py")),
    ]
    environment = {**os.environ, "PATH": str(tmp_path), "ABLATE_NEEDS_SLURM": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 1, done.stdout
    assert "no Slurm on this machine: packages" in done.stdout
    assert "passed" not in done.stdout
