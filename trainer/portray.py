"""`python -m trainer pictures CHECKPOINT [DATA]`: the pictures of what a network has learned, of a run that is over or on other scans."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import Which, fill, trained
from trainer.config import TrainerConfig
from trainer.data import load_scans, split_scans
from trainer.measure import Probe
from trainer.model import build, embed, embed_patches
from trainer.numerics import device_of
from trainer.pictures import write_pictures
from trainer.trained.arguments import parser, split
from trainer.trained.network import OWN, changed

EXIT_DONE, EXIT_FAILED, EXIT_INVALID = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 done, 1 a picture failed, 2 invalid."""
    made = parser("pictures", "Draws prototypes.png and patches.png of a trained network.", "teacher")
    made.add_argument("checkpoint", type=Path, help="checkpoint.pt, or the folder of a run")
    made.add_argument("data", nargs="?", help="a folder or glob of scans, or phantom: all are read (default: the run's held-out scans)")
    made.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where to write them (default: here)")
    try:
        words, changes = split(arguments)
        given = made.parse_intermixed_args(words)
        found = trained(given.checkpoint)
        own = {} if given.data is None else {"data.source": given.data}
        config = changed(found.config, {**changes, **own}, OWN)
        net, device = build(found.config), device_of(config)
        which: Which = given.which if found.step else "student"  # an untrained teacher's feature norm has seen no batch
        fill(net, found.weights(which), found.path)
        net.to(device)
        scans = load_scans(config)
        probe = Probe(scans, range(len(scans)) if own else _held_out(config, len(scans)), config)
    except (ValueError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_INVALID
    problems = write_pictures(
        given.out,
        probe.scans,
        lambda images: embed(net, images, device),
        lambda images: embed_patches(net, images, device),
        config,
    )
    for problem in problems:
        print(f"trainer: {problem}", file=sys.stderr)
    print(
        f"{which} of {found.path} at step {found.step}, {len(probe.scans)} scans: prototypes.png and patches.png in {given.out.resolve()}"
    )
    return EXIT_FAILED if problems else EXIT_DONE


def _held_out(config: TrainerConfig, scans: int) -> tuple[int, ...]:
    parts = split_scans(config, scans)
    return parts.test if config.measure.split == "test" else parts.select
