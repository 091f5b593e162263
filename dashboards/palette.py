"""Colours, shapes and names that mean the same on every figure.

Colours are told apart with any common colour blindness (Okabe and Ito 2008, "Color Universal Design"); none carries a meaning alone:
a verdict also has a shape and its word, an arm also has a line style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY = "#56B4E9", "#CC79A7", "#7f7f7f"

DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Mark:
    """How a verdict is drawn."""

    colour: str
    symbol: str
    sign: str


VERDICTS = {
    "adopt": Mark(GREEN, "circle", "✓"),
    "reject": Mark(VERMILLION, "x", "✗"),
    "undecided": Mark(ORANGE, "diamond-open", "?"),
    "baseline": Mark(GREY, "square", "■"),
    "reference": Mark(SKY, "line-ns-open", "|"),
}


@dataclass(frozen=True)
class Line:
    """How an arm is drawn over steps."""

    colour: str
    dash: str


def lines(arms: Sequence[str], baseline: str) -> dict[str, Line]:
    """A line for each arm: grey for the baseline, then colours, then the same colours in the next line style."""
    colours = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
    rivals = [arm for arm in arms if arm != baseline]
    drawn = {arm: Line(colours[i % len(colours)], DASHES[i // len(colours) % len(DASHES)]) for i, arm in enumerate(rivals)}
    return ({baseline: Line(GREY, "solid")} if baseline in arms else {}) | drawn


UNITS = (
    ("mutual_information", "nats"),
    ("entropy", "share of ln K"),
    ("loss_stability", "share of descent"),
    ("loss", "nats"),
    ("ratio", "share of voxels"),
    ("iou", "intersection over union"),
    ("containment", "share of a local crop"),
    ("mrr", "mean reciprocal rank"),
    ("accuracy", "share correct"),
    ("nmi", "normalised mutual information"),
    ("updates_applied", "share of steps"),
)
"""Part of a metric's name to the unit it is in; the first that fits."""


def unit(metric: str) -> str:
    """The unit of a metric by its name; empty where it is not known."""
    return next((unit for part, unit in UNITS if part in metric.rsplit("/", 1)[-1]), "")


def title(metric: str) -> str:
    """A metric's name for people: `probe/local_to_global_mrr` is "local to global mrr"."""
    return metric.rsplit("/", 1)[-1].replace("_", " ")
