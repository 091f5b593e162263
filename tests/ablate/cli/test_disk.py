"""What the file system says no to: a message and an exit code, no traceback."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from toyplace import Toyplace

from ablate.errors import LedgerFull
from ablate.ledger.connection import explained
from ablate.trial import write_atomic


def typed(place: Toyplace, *command: str, out: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command typed in the place's folder; its output goes into a file where one is named."""
    whole = [sys.executable, "-m", "ablate", *command]
    with (out or place.directory / "out.txt").open("w") as stream:
        return subprocess.run(
            whole, cwd=place.directory, env=place.environment, stdout=stream, stderr=subprocess.PIPE, text=True, check=False
        )


def test_a_runs_folder_that_cannot_be_made_is_said_with_what_to_do(tmp_path: Path) -> None:
    place = Toyplace(tmp_path)
    place.write()
    (tmp_path / "taken").write_text("a file, no folder")
    ended = typed(place, "run", "toy.yaml", "--no-mlflow", "--runs", "taken")
    assert ended.returncode == 2
    assert (
        "taken/toy: expected a file or folder that may be written but got: Not a directory. Choose another place with --runs."
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_ends_a_command_as_one_that_can_be_taken_up_again(tmp_path: Path) -> None:
    place = Toyplace(tmp_path)
    place.write()
    ended = typed(place, "plan", "toy.yaml", out=Path("/dev/full"))
    assert ended.returncode == 3
    assert "No space left on device. Nothing that is recorded is lost: free some, and run the same command again." in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_ledger_on_a_full_disk_is_one_that_can_be_taken_up_again(tmp_path: Path) -> None:
    with pytest.raises(LedgerFull, match="free some space and run the same command again") as raised, explained(tmp_path / "ledger.db"):
        raise OSError(28, "No space left on device")
    assert raised.value.exit_code == 3


def test_a_write_that_fails_halfway_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_atomic(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomic(path, "new" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["page.html"]
