"""The report's page as PDF, printed by a browser of this machine: no library draws what a browser does."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ablate.errors import AblateError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "chrome")
VARIABLE = "ABLATE_BROWSER"
DRAWS_MS = 20_000
"""Of the page's own clock, which runs ahead: all figures are drawn by then."""
LONGEST_S = 180


def browser() -> str:
    """A Chromium of this machine.

    Raises:
        AblateError: There is none, or the one that `ABLATE_BROWSER` names is not there.
    """
    named = os.environ.get(VARIABLE)
    found = next((path for name in ([named] if named else NAMES) if (path := shutil.which(name))), None)
    if found is None:
        looked = f"{VARIABLE}={named}" if named else ", ".join(NAMES)
        raise AblateError(
            f"PDF: expected a Chromium but found none ({looked}). Install one, or name its program: export {VARIABLE}=/path/to/chrome. "
            "Or open report.html and print it."
        )
    return found


def pdf(page: Path, path: Path) -> Path:
    """Print a page; what was at the path before stays until the new file is whole.

    Raises:
        AblateError: No browser, or it does not print.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.pdf")
    try:
        _print(page, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _print(page: Path, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ablate-print-") as profile:
        command = [
            browser(),
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            f"--user-data-dir={profile}",
            "--no-pdf-header-footer",
            "--window-size=900,1300",
        ]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--virtual-time-budget={DRAWS_MS}", f"--print-to-pdf={path.absolute()}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium refuses its sandbox to root
        try:
            done = subprocess.run(
                [*command, page.absolute().as_uri()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                timeout=LONGEST_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AblateError(f"PDF: {command[0]} did not print {page} within {LONGEST_S} s. Open the page and print it.") from error
    if done.returncode != 0 or not path.exists():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise AblateError(f"PDF: {command[0]} did not print {page}: {last} Open the page and print it.")
