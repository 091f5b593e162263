"""Pictures of any trainer on the report: found by themselves, captioned by their own files, small, side by side."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ablate.command import DIRECTORY
from ablate.results import Results
from ablate.trial import AttemptFiles, TrialFiles
from dashboards.galleries import MOST_PICTURES
from dashboards.pictures import LARGEST_BYTES, WIDEST_PIXELS, address, caption
from dashboards.report import render
from dashboards.sections import subject

NASTY = '<img src=x onerror="alert(1)">'


def png(path: Path, title: str | None = None, description: str | None = None, pixels: np.ndarray | None = None) -> Path:
    words = PngInfo()
    for key, value in (("Title", title), ("Description", description)):
        if value is not None:
            words.add_itxt(key, value)
    shown = np.full((30, 40, 3), 90, np.uint8) if pixels is None else pixels
    Image.fromarray(shown).save(path, "PNG", pnginfo=words)
    return path


def decoded(found: str | None) -> tuple[Image.Image, int]:
    assert found is not None
    content = base64.b64decode(found.partition(",")[2])
    return Image.open(io.BytesIO(content)), len(content)


def test_a_caption_is_what_the_file_says_of_itself(tmp_path: Path) -> None:
    said = caption(png(tmp_path / "a.png", "12 of 64 prototypes", f"Zwölf – {NASTY}\n and more"))
    assert (said.title, said.description) == ("12 of 64 prototypes", f"Zwölf – {NASTY} and more")
    assert caption(png(tmp_path / "b.png")).title == "b.png"
    assert len(caption(png(tmp_path / "c.png", "t", "x" * 5000)).description) < 2000
    for name, content in (("d.png", b"\x89PNG not really"), ("e.png", b""), ("f.jpg", b"\xff\xd8")):
        (tmp_path / name).write_bytes(content)
        assert (caption(tmp_path / name).title, caption(tmp_path / name).description) == (name, "")
    assert caption(tmp_path / "none.png").title == "none.png"


def test_a_caption_is_read_again_when_the_picture_changed(tmp_path: Path) -> None:
    import os

    path = png(tmp_path / "a.png", "one")
    assert caption(path).title == "one"
    png(path, "two")
    os.utime(path, ns=(1, 1))
    assert caption(path).title == "two"


def test_a_small_png_stays_as_it_is(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", "t")
    found = address(path)
    assert found is not None
    assert base64.b64decode(found.removeprefix("data:image/png;base64,")) == path.read_bytes()


@pytest.mark.parametrize("shape", [(500, 2000, 3), (1300, 1100, 3)])
def test_a_large_one_is_made_to_fit_whatever_it_shows(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Noise, which no format makes small."""
    path = png(tmp_path / "a.png", pixels=np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
    assert path.stat().st_size > 2_000_000
    image, size = decoded(address(path))
    assert size <= LARGEST_BYTES
    assert image.width <= WIDEST_PIXELS
    assert image.width / image.height == pytest.approx(shape[1] / shape[0], rel=0.01)


def test_other_formats_are_shown_and_what_is_no_picture_is_not(tmp_path: Path) -> None:
    Image.new("L", (20, 10), 200).save(tmp_path / "a.jpg")
    assert decoded(address(tmp_path / "a.jpg"))[0].size == (20, 10)
    whole = png(tmp_path / "b.png", pixels=np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)).read_bytes()
    for name, content in (("c.png", b"\x89PNG not really"), ("d.png", whole[: len(whole) // 2]), ("e.png", b"")):
        (tmp_path / name).write_bytes(content)
        assert address(tmp_path / name) is None


def test_pictures_of_an_attempt_are_its_own_and_its_commands_gallery_first(tmp_path: Path) -> None:
    files = AttemptFiles(tmp_path / "0001")
    assert files.pictures == []
    (files.directory / DIRECTORY).mkdir(parents=True)
    for name in ("b.PNG", "gallery.png", "a.jpg", ".hidden.png", "notes.txt", f"{DIRECTORY}/plot.png"):
        (files.directory / name).write_bytes(b"")
    (files.directory / "folder.png").mkdir()
    assert [path.name for path in files.pictures] == ["gallery.png", "a.jpg", "b.PNG", "plot.png"]
    assert files.pictures[-1] == files.directory / DIRECTORY / "plot.png"


@pytest.fixture
def study(planted: Callable[..., Any]) -> Any:
    made = planted()
    made.run()
    return made


def folders(study: Any, places: list[tuple[str, str]]) -> dict[tuple[str, str], Path]:
    """Where the accepted attempt of each arm's first replicate lies."""
    results = Results(study.root, "planted")
    found = {}
    for place in places:
        use = next(use for use in results._uses if (use.phase, use.arm) == place)
        result = results._result(use.signature)
        assert result is not None
        found[place] = TrialFiles(study.root, use.signature).attempt(result.attempt).directory
    return found


def compared(study: Any) -> list[tuple[str, str]]:
    """The study's baseline, the arm that the answer is about, the reference."""
    document = Results(study.root, "planted").document()
    return [(document["phases"][0]["name"], "baseline"), subject(document), ("references", "untrained")]


def pictures_of(page: str) -> str:
    return page.partition('<section id="pictures">')[2].partition("</section>")[0]


def test_any_pictures_stand_side_by_side_with_the_captions_of_their_files(study: Any) -> None:
    assert 'id="pictures"' not in render(Results(study.root, "planted")), "without any there is no such section"
    for n, folder in enumerate(folders(study, compared(study)).values()):
        png(folder / "embedding.png", f"{n + 3} of 64 clusters are used", f"Each dot a scan, run {n}.")
    png(folders(study, compared(study)[:1]).popitem()[1] / "lonely.png", NASTY, f"{NASTY} again")
    section = pictures_of(render(Results(study.root, "planted")))
    assert section.count("<img ") == 4
    row = section.partition("<h3>embedding</h3>")[2].partition("<h3>")[0]
    order = [row.index(f"{n + 3} of 64 clusters are used") for n in range(3)]
    assert order == sorted(order), "baseline, winner, reference"
    for label, n in (("The study&#x27;s baseline", 0), ("The winner", 1), ("untrained (reference)", 2)):
        assert f'alt="{label}: {n + 3} of 64 clusters are used"' in row
        assert f"Each dot a scan, run {n}." in row
    assert html.escape(NASTY) in section
    assert NASTY not in section
    lonely = section.partition("<h3>lonely</h3>")[2]
    assert "The winner: no such picture." in lonely
    assert "untrained (reference): no such picture." in lonely


def test_a_picture_that_cannot_be_read_is_said_and_many_are_bounded(study: Any) -> None:
    folder = folders(study, compared(study)[:1]).popitem()[1]
    for n in range(MOST_PICTURES + 3):
        png(folder / f"p{n}.png", pixels=np.random.default_rng(n).integers(0, 255, (400, 400, 3), dtype=np.uint8))
    (folder / "p0.png").write_bytes(b"\x89PNG not really")
    section = pictures_of(render(Results(study.root, "planted")))
    assert "p0.png cannot be read as an image" in section
    assert section.count('src="data:image/') == MOST_PICTURES - 1
    assert f"3 pictures more in the trials' folders: p{MOST_PICTURES}.png" in section
