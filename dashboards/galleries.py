"""The report's pictures: what a trainer left beside its results, the study's baseline beside the winner and the references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.study import BASELINE, REFERENCES
from ablate.words import counted, listed
from dashboards import pictures
from dashboards.page import text

if TYPE_CHECKING:
    from ablate.results import Results

MOST_PICTURES = 6
"""Of an arm; the others stay in the trial's folder."""
ALL_BYTES = 5_000_000
"""Of all pictures of a report, before they are written as text."""


@dataclass(frozen=True)
class Shown:
    """An arm whose pictures are shown, and by what name readers know it."""

    label: str
    reference: bool
    files: Mapping[str, Path]
    """Name to file, in the order of `AttemptFiles.pictures`."""


def galleries(results: Results, document: Mapping[str, Any], subject: tuple[str, str], *, is_winner: bool) -> str:
    """Pictures of the same name side by side, each with its caption; empty where no trainer left any.

    Args:
        subject: Phase and arm that stands beside the baseline.
    """
    arms = shown(results, document, subject, is_winner=is_winner)
    names = list(dict.fromkeys(name for arm in arms for name in arm.files))
    if not names:
        return ""
    largest = min(pictures.LARGEST_BYTES, ALL_BYTES // sum(name in arm.files for name in names[:MOST_PICTURES] for arm in arms))
    rows = [_row(name, arms, largest) for name in names[:MOST_PICTURES]]
    more = names[MOST_PICTURES:]
    rest = (
        f'<p class="soft">{text(counted(len(more), "picture"))} more in the trials\' folders: {text(listed(more[:8]))}.</p>' if more else ""
    )
    who = listed([arm.label[0].lower() + arm.label[1:] for arm in arms if arm.files])
    return (
        "<h2>To look at: what the arms see, and what they learned</h2>"
        f'<p class="soft">Drawn by the trainer at the end of the first replicate of {text(who)}. The verdict rests on numbers alone.</p>'
        f"{''.join(rows)}{rest}"
    )


def shown(results: Results, document: Mapping[str, Any], subject: tuple[str, str], *, is_winner: bool) -> list[Shown]:
    """The study's baseline, the winner (or the arm that came closest), and the references, those without pictures too."""
    if not document["phases"]:
        return []
    phase, arm = subject
    sought = {(document["phases"][0]["name"], BASELINE): "The study's baseline"}
    sought.setdefault((phase, arm), "The winner" if is_winner else f"{arm} ({phase})")
    sought |= {(REFERENCES, name): f"{name} (reference)" for name in document["references"]}
    return [Shown(label, place[0] == REFERENCES, {path.name: path for path in results.pictures(*place)}) for place, label in sought.items()]


def _row(name: str, arms: list[Shown], largest_bytes: int) -> str:
    """Baseline and winner side by side; the references unfold below."""

    def cards(*, references: bool) -> str:
        among = [arm for arm in arms if arm.reference == references]
        missing = [arm.label for arm in among if name not in arm.files]
        without = f'<p class="soft">{text(listed(missing))}: no such picture.</p>' if missing else ""
        drawn = "".join(_card(arm.label, arm.files[name], largest_bytes) for arm in among if name in arm.files)
        return without + (f'<div class="grid pictures">{drawn}</div>' if drawn else "")

    labels = listed([arm.label for arm in arms if arm.reference])
    beside = f"<details><summary>Beside them: {text(labels)}</summary>{cards(references=True)}</details>" if labels else ""
    wider = '<button type="button" class="wider" aria-pressed="false">Full width</button>'
    return f"<div><h3>{text(Path(name).stem)}</h3>{wider}{cards(references=False)}{beside}</div>"


def _card(label: str, path: Path, largest_bytes: int) -> str:
    said, address = pictures.caption(path), pictures.address(path, largest_bytes)
    if address is None:
        return f'<div class="card"><p class="soft">{text(label)}: {text(path.name)} cannot be read as an image.</p></div>'
    title = f"{label}: {said.title}"
    drawn = f'<img alt="{text(title)}" src="{address}">'
    words = f"<strong>{text(title)}</strong>" + (f" {text(said.description)}" if said.description else "")
    return f'<div class="card"><figure>{drawn}<figcaption>{words}</figcaption></figure></div>'
