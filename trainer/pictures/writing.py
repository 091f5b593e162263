"""Both pictures of one network, as files."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import TrainerConfig
from trainer.measure.organs import EmbedPatches
from trainer.measure.probe import Embed
from trainer.measure.yardstick import ScanProbe
from trainer.pictures.patch_sheet import draw_patches
from trainer.pictures.patches import PatchMap, patch_map
from trainer.pictures.prototypes import PrototypeUse, draw_prototypes, prototype_use
from trainer.png import write_png

if TYPE_CHECKING:
    from PIL import Image

    Seen = tuple[PrototypeUse | PatchMap, Callable[[], Image.Image]]


def write_pictures(
    directory: Path, scans: Sequence[ScanProbe], embed: Embed, embed_patches: EmbedPatches, config: TrainerConfig, *, draws: bool = True
) -> list[str]:
    """Write `prototypes.png` of all these scans' crops and `patches.png` of the first scan.

    They are for looking, so one that fails keeps the other from nothing: its traceback is printed, and a sentence returned.

    Args:
        draws: Without, the network is read and nothing is drawn: what ranks beside the first do, where weights are sharded.

    Returns:
        What failed.
    """

    def prototypes() -> Seen:
        use = prototype_use(scans, embed, config)
        return use, lambda: draw_prototypes(use, scans, config)

    def patches() -> Seen:
        found = patch_map(scans[0], embed_patches, config)
        return found, lambda: draw_patches(found)

    problems = []
    for name, seen in (("prototypes.png", prototypes), ("patches.png", patches)):
        try:
            found, draw = seen()
            if draws:
                write_png(directory / name, draw(), found.title(), found.description())
        except Exception as error:
            traceback.print_exc()
            problems.append(f"{name} was not drawn: {type(error).__name__}: {error}")
    return problems
