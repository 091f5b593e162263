"""`python -m trainer export CHECKPOINT DEST.safetensors`: the backbone alone, with its settings."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.checkpoint import trained
from trainer.trained.arguments import parser
from trainer.trained.backbone import export, load_backbone


def backbone_file(request: Mapping[str, str]) -> str:
    """Write the teacher's backbone of the run in `run` into `folder`; the file's name.

    Raises:
        CheckpointError: The run has no checkpoint of this trainer.
    """
    destination = Path(request["folder"]) / "backbone.safetensors"
    export(trained(Path(request["run"])), destination)
    return destination.name


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 done, 2 invalid."""
    made = parser("export", "Writes a backbone without heads, in float32, as safetensors with its settings.", "teacher")
    made.add_argument("checkpoint", type=Path, help="checkpoint.pt, or the folder of a run")
    made.add_argument("destination", type=Path, help="a .safetensors file")
    given = made.parse_args(arguments)
    try:
        export(trained(given.checkpoint), given.destination, given.which)
    except (ValueError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 2
    backbone = load_backbone(given.destination)
    count = sum(p.numel() for p in backbone.parameters())
    m, c, d = backbone.config.model, backbone.config.crops, backbone.config.data
    print(f"{given.destination}: {given.which}, {count:,} weights, {m.pooling} feature, cubes of {c.global_size_voxels} voxels")
    print(f"  spacing {d.spacing_mm or 'as scanned'} mm, window {d.window_low_hu:g} to {d.window_high_hu:g} HU")
    print(f'  trainer.load_backbone("{given.destination}")')
    return 0
