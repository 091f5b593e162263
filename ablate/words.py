"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = 1e-12
"""Smaller sizes read as 0: an open lower bound (`stats.intervals.ABOVE_ZERO`) and rounding."""


def number(value: float | None, *, signed: bool = False) -> str:
    """Three significant digits."""
    if value is None:
        return "not known"
    if abs(value) < NOTHING:
        return "0"
    return f"{value:+.3g}" if signed else f"{value:.3g}"


def apart(value: float, bounds: Sequence[float]) -> str:
    """Three significant digits, or as many more as tell it from these: a value just below .2 is not told as .2."""
    return next(
        text for digits in range(3, 18) if (text := f"{value:.{digits}g}") and all(value == b or text != f"{b:.{digits}g}" for b in bounds)
    )


def between(low: float | None, high: float | None) -> str:
    """` (0.01 to 0.03)`, or nothing where no interval is defined; an end that leaves out 0 is never told as 0."""
    if low is None or high is None:
        return ""
    return " ({} to {})".format(*ends(low, high))


def ends(low: float, high: float, *, signed: bool = False) -> tuple[str, str]:
    """Both ends of an interval; one that leaves out 0 is never told as 0."""
    least = "above 0" if 0 < low < NOTHING else number(low, signed=signed)
    most = "below 0" if -NOTHING < high < 0 else number(high, signed=signed)
    return least, most


def probability(p: float) -> str:
    """Three digits, so that .0496 is not told as .05; never 0."""
    return "< 0.001" if p < 0.001 else f"{p:.3g}"


def share(part: float) -> str:
    """Whole percent, told as bounds at the ends: `< 1 %`."""
    return "< 1 %" if 0 < part < 0.01 else "> 99 %" if 0.99 < part < 1 else f"{part:.0%}".replace("%", " %")


def counted(count: int, noun: str) -> str:
    """`1 arm`, `2 arms`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
