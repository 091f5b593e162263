"""Pictures of what a network has learned, on held-out scans: what its prototypes hold, and its patch features as colours.

They are for looking and say what they show (trainer.png); nothing is decided by them. Everything is computed by plain functions
of a network's outputs, and drawn apart from that. They draw no random number.
"""

from trainer.pictures.patch_sheet import draw_patches
from trainer.pictures.patches import PatchMap, patch_map
from trainer.pictures.prototypes import PrototypeUse, draw_prototypes, prototype_use
from trainer.pictures.writing import write_pictures

__all__ = ["PatchMap", "PrototypeUse", "draw_patches", "draw_prototypes", "patch_map", "prototype_use", "write_pictures"]
