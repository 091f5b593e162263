"""What `--json` prints: one document on standard output, and nothing else there."""

from __future__ import annotations

import json

import typer


def print_json(document: object) -> None:
    """A document as JSON; what is said on the way to it belongs on standard error."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))
