"""`prototypes.png`: what a network sorts held-out crops into, prototype by prototype, beside how evenly it does so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from trainer.config import TrainerConfig
from trainer.data import normalise
from trainer.measure import classify
from trainer.measure.probe import Embed
from trainer.measure.prototypes import prototype_measures, softmax
from trainer.measure.yardstick import ScanProbe
from trainer.pictures.drawing import (
    AIR,
    ALARM,
    BODY,
    FAINT,
    GAP,
    INK,
    LINE,
    MIXED,
    PALE,
    PAPER,
    Colour,
    fitted,
    font,
    grey,
    in_few_colours,
    sheet,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image, ImageDraw

ROWS, NEAREST, BARS = 8, 8, 64
"""Prototypes with crops, crops of each, and prototypes in the bar charts."""
MOST = 0.9
"""Share of crops that `held_by` speaks of."""
FULL = 12
"""A bar of full height is a probability this many times that of a uniform output."""
THUMB, WORDS, PROFILE, HEAD, CHART = 84, 132, 220, 110, 70
ROW = THUMB + LINE + GAP


@dataclass(frozen=True)
class PrototypeUse:
    """How a network spreads n held-out crops over K prototypes. Prototypes are in the order of their use, the most used first."""

    kind: str
    """By `classify`: none, uniform, single_prototype, partial."""
    order: Int[np.ndarray, " prototypes"]
    share: Float[np.ndarray, " prototypes"]
    """Of the crops: whose likeliest prototype it is."""
    foreground: Float[np.ndarray, " prototypes"]
    """Mean body share of these crops by the yardstick; NaN where there are none."""
    probs: Float[np.ndarray, "n prototypes"]
    """Softmax at `measure.temperature`."""
    ratio: Float[np.ndarray, " n"]
    """Body share of each crop."""
    entropy: float
    """Mean entropy of a crop's distribution, share of ln K."""
    information_nats: float
    """What the prototype tells about which crop it is."""
    entropy_foreground: float

    @property
    def prototypes(self) -> int:
        """K."""
        return len(self.order)

    @property
    def held_by(self) -> int:
        """The fewest prototypes that hold 90 % of the crops."""
        return int(np.searchsorted(np.cumsum(self.share), MOST - 1e-9) + 1)

    def nearest(self, place: int, count: int = NEAREST) -> Int[np.ndarray, " crops"]:
        """The crops nearest to the prototype at this place of the order: its own by falling probability, then others in the same way."""
        own, nearness = self.own(place), self.probs[:, self.order[place]]
        return np.lexsort((-nearness, ~own))[:count]

    def own(self, place: int) -> Bool[np.ndarray, " n"]:
        """Crops whose likeliest prototype is the one at this place of the order."""
        return np.asarray(self.probs.argmax(axis=1) == self.order[place])

    def title(self) -> str:
        """What is seen, in one line."""
        held = f"{self.held_by} of {self.prototypes} prototypes hold {MOST:.0%} of {len(self.ratio)} held-out crops"
        if self.kind == "uniform":
            return f"Uniform collapse: every crop spreads over all {self.prototypes} prototypes alike"
        if self.kind == "single_prototype":
            return f"Collapse onto one prototype: it holds {self.share[0]:.0%} of {len(self.ratio)} held-out crops"
        return f"Partial collapse: {held}" if self.kind == "partial" else held[0].upper() + held[1:]

    def description(self) -> str:
        """The same in sentences."""
        used = int((self.share > 0).sum())
        return (
            f"A crop's entropy over prototypes is {self.entropy:.2f} of ln {self.prototypes} (1: uniform), and they tell "
            f"{self.information_nats:.2f} nats about which crop it is (0: nothing). {self.held_by} of {self.prototypes} prototypes hold "
            f"{MOST:.0%} of {len(self.ratio)} held-out crops, {self.prototypes - used} none; the most used one holds {self.share[0]:.0%}, "
            f"which are {self.foreground[0]:.0%} body. Rows: the {min(ROWS, used)} most used, how their crops spread (dashed: uniform), "
            "their nearest crops."
        )


def prototype_use(scans: Sequence[ScanProbe], embed: Embed, config: TrainerConfig) -> PrototypeUse:
    """Read a network on the probe crops, the background ones included.

    Raises:
        ValueError: Logits that are not finite.
    """
    m = config.measure
    logits = np.concatenate([embed(scan.globals)[1] for scan in scans])
    if not np.isfinite(logits).all():
        raise ValueError("expected finite logits of held-out crops but the network's are not. Lower loop.lr, or set loop.clip_norm.")
    probs, ratio = softmax(logits, m.temperature), np.concatenate([scan.ratio for scan in scans])
    found = prototype_measures(probs, ratio, m.rich_ratio, m.background_ratio)
    first = probs.argmax(axis=1)
    counts = np.bincount(first, minlength=probs.shape[1])
    order = np.lexsort((-probs.mean(axis=0), -counts))
    body = np.bincount(first, weights=ratio, minlength=probs.shape[1])
    foreground = np.divide(body, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return PrototypeUse(
        classify(found),
        order,
        counts[order] / len(ratio),
        foreground[order],
        probs,
        ratio,
        found["prototype_entropy"],
        found["mutual_information"],
        found.get("prototype_entropy_foreground", found["prototype_entropy"]),
    )


def draw_prototypes(use: PrototypeUse, scans: Sequence[ScanProbe], config: TrainerConfig) -> Image.Image:
    """The picture: all prototypes' use as bars, then a row for each of the most used ones."""
    rows = min(ROWS, int((use.share > 0).sum()))
    width = 4 * GAP + WORDS + PROFILE + NEAREST * (THUMB + GAP)
    image, draw = sheet(width, HEAD + CHART + LINE + 3 * GAP + rows * ROW)
    _head(draw, use, width, config)
    _use_chart(draw, use, (GAP, HEAD), width - 2 * GAP, config)
    top = HEAD + CHART + GAP
    draw.text((2 * GAP + WORDS, top), "how its crops spread; dashed: uniform", PALE, font(12))
    draw.text(
        (3 * GAP + WORDS + PROFILE, top),
        "its nearest held-out crops, their probability and body share (no frame: nearer to another one)",
        PALE,
        font(12),
    )
    for row in range(rows):
        _row(image, draw, top + LINE + 2 * GAP + row * ROW, row, use, scans, config)
    return in_few_colours(image, (INK, PALE, FAINT, PAPER, ALARM, BODY, MIXED, AIR))


def _head(draw: ImageDraw.ImageDraw, use: PrototypeUse, width: int, config: TrainerConfig) -> None:
    draw.text((GAP, 8), use.title(), INK if use.kind == "none" else ALARM, font(19))
    said = (
        f"entropy of a crop {use.entropy:.2f} of ln {use.prototypes}, of crops of body {use.entropy_foreground:.2f} (1: uniform)  ·  "
        f"information {use.information_nats:.2f} nats (0: none)  ·  temperature {config.measure.temperature:g}"
    )
    for line, words in enumerate(fitted(draw, said, 13, width - 2 * GAP)):
        draw.text((GAP, 36 + line * 17), words, PALE, font(13))
    x, m = GAP, config.measure
    for colour, words in (
        (BODY, f"crops of body (share at least {m.rich_ratio:g})"),
        (MIXED, "between"),
        (AIR, f"of background (at most {m.background_ratio:g})"),
    ):
        draw.rectangle((x, 62, x + 12, 74), fill=colour)
        draw.text((x + 18, 60), words, PALE, font(12))
        x += 40 + int(draw.textlength(words, font(12)))
    shown = min(BARS, use.prototypes)
    which = f"all {shown} prototypes" if shown == use.prototypes else f"the {shown} most used of {use.prototypes} prototypes"
    draw.text((GAP, HEAD - 22), f"Share of crops whose likeliest prototype it is, {which}; full height {_top(use):.0%}", PALE, font(12))


def _top(use: PrototypeUse) -> float:
    return float(max(0.1, np.ceil(use.share[0] * 10) / 10))


def _use_chart(draw: ImageDraw.ImageDraw, use: PrototypeUse, at: tuple[int, int], width: int, config: TrainerConfig) -> None:
    shares = use.share[:BARS]
    draw.rectangle((at[0], at[1], at[0] + width, at[1] + CHART), outline=FAINT)
    colours = [FAINT if np.isnan(share) else _colour(float(share), config) for share in use.foreground[:BARS]]
    _bars(draw, shares / _top(use), colours, (at[0], at[1] + CHART), width, CHART - 4)


def _bars(
    draw: ImageDraw.ImageDraw, heights: Float[np.ndarray, " bars"], colours: Sequence[Colour], at: tuple[int, int], width: int, tall: int
) -> None:
    """Bars on the line that begins at `at`; heights above 1 are cut."""
    step = width / len(heights)
    for n, (height, colour) in enumerate(zip(np.clip(heights, 0, 1).tolist(), colours, strict=True)):
        left, right = round(at[0] + n * step), max(round(at[0] + (n + 1) * step) - 2, round(at[0] + n * step))
        top = at[1] - round(height * tall)
        if top < at[1]:
            draw.rectangle((left, top, right, at[1] - 1), fill=colour)


def _row(
    image: Image.Image, draw: ImageDraw.ImageDraw, top: int, row: int, use: PrototypeUse, scans: Sequence[ScanProbe], config: TrainerConfig
) -> None:
    own = use.own(row)
    draw.line((GAP, top - 5, image.width - GAP, top - 5), FAINT)
    colour = _colour(float(use.foreground[row]), config)
    words = (f"prototype {use.order[row]}", f"{use.share[row]:.1%} of crops ({own.sum()})", f"{use.foreground[row]:.0%} body")
    for line, (said, ink) in enumerate(zip(words, (INK, PALE, colour), strict=True)):
        draw.text((GAP, top + line * 18), said, ink, font(13))
    left = 2 * GAP + WORDS
    _profile(draw, use, row, (left, top), colour)
    left += PROFILE + GAP
    for place, crop in enumerate(use.nearest(row).tolist()):
        x = left + place * (THUMB + GAP)
        image.paste(grey(_middle(scans, crop, config), THUMB, THUMB), (x, top))
        ratio = float(use.ratio[crop])
        if own[crop]:
            draw.rectangle((x, top, x + THUMB - 1, top + THUMB - 1), outline=_colour(ratio, config), width=2)
        probability = float(use.probs[crop, use.order[row]])
        said = f"{probability:.2f}" if probability >= 0.01 else f"{probability:.1g}"
        draw.text((x, top + THUMB + 1), f"p {said}  {ratio:.0%}", PALE, font(11))


def _profile(draw: ImageDraw.ImageDraw, use: PrototypeUse, row: int, at: tuple[int, int], colour: Colour) -> None:
    """The mean distribution of this prototype's crops over the most used prototypes; its own bar stands out."""
    heights = use.probs[use.own(row)].mean(axis=0)[use.order[:BARS]] * use.prototypes / FULL
    bottom = at[1] + THUMB
    draw.rectangle((at[0], at[1], at[0] + PROFILE, bottom), outline=FAINT)
    _bars(draw, heights, [colour if n == row else PALE for n in range(len(heights))], (at[0], bottom), PROFILE, THUMB - 2)
    uniform = bottom - round((THUMB - 2) / FULL)
    for x in range(at[0], at[0] + PROFILE, 8):
        draw.line((x, uniform, x + 4, uniform), ALARM)


def _middle(scans: Sequence[ScanProbe], crop: int, config: TrainerConfig) -> Float32[np.ndarray, "height width"]:
    """The middle axial slice of a probe crop, windowed as the network sees it."""
    for scan in scans:
        if crop < len(scan.ratio):
            d, h, w = np.concatenate([scan.corners, scan.background_corners])[crop].tolist()
            size = config.crops.global_size_voxels
            return normalise(scan.owner.voxels[d + size // 2, h : h + size, w : w + size], config.data)
        crop -= len(scan.ratio)
    raise IndexError(f"crop {crop} is beyond the last one")


def _colour(ratio: float, config: TrainerConfig) -> Colour:
    m = config.measure
    return BODY if ratio >= m.rich_ratio else AIR if ratio <= m.background_ratio else MIXED
