"""DINO-3D on CT: `python -m trainer` trains it, `trainer.load_backbone(path)` brings back what was exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.trained.backbone import load_backbone

__all__ = ["load_backbone"]


def __getattr__(name: str) -> Any:
    """`load_backbone` on first use: importing the settings alone stays free of torch."""
    if name == "load_backbone":
        from trainer.trained.backbone import load_backbone

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
