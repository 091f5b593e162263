"""A controller in a process of its own: completes trials of the toy trainer, and kills itself where it was told to."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from stage import Stage

import ablate.execution.pool as pool
from ablate.errors import AblateError
from ablate.execution.fleet import Fleet
from ablate.execution.local import Local
from ablate.execution.slurm import Slurm
from ablate.ledger import Ledger

PLACES: dict[str, tuple[Any, str]] = {
    "submit": (Local, "submit"),
    "submit job": (Slurm, "submit"),
    "claim": (pool, "claim"),
    "record start": (Ledger, "start_attempt"),
    "give": (Fleet, "give"),
    "accept": (pool, "accept"),
    "record end": (Ledger, "finish_attempt"),
    "turn": (pool.Queue, "_turn"),
}


def plant(where: str) -> None:
    """`before give 3`: SIGKILL to this process before the third call."""
    when, _, rest = where.partition(" ")
    place, _, count = rest.rpartition(" ")
    owner, name = PLACES[place]
    original: Callable[..., Any] = getattr(owner, name)
    left = [int(count)]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        value = original(*args, **kwargs)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(owner, name, wrapped)


def main(values: dict[str, Any]) -> int:
    if values["plant"]:
        plant(values["plant"])
    stage = Stage(Path(values["root"]), workers=values["workers"], executor=values["executor"], more=values["more"])
    specs = [stage.spec(**config) for config in values["configs"]]
    try:
        stage.complete(specs)
    except AblateError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
