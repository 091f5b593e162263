"""`python -m trainer [preset=NAME] [key=value ...] [out=DIR]`: train one model, without the platform."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType

from trainer.config import ConfigError, TrainerConfig, compose, leaves, presets, to_mapping

USAGE = """\
usage: python -m trainer [preset=NAME] [key=value ...] [out=DIR]

Trains one DINO-3D model and prints its measures. Everything is written into DIR, by default runs/trainer/<date and time>:
checkpoint.pt, summary.json, crops.parquet, gallery.png, prototypes.png, patches.png. With the DIR of an interrupted run it goes on where
that stopped.

  python -m trainer                                             the embedded phantom, two CPU cores
  python -m trainer loop.steps=0                                the untrained network
  python -m trainer data.source=/data/ct crops.foreground_crop_prob=1.0 out=runs/ct

  torchrun --nproc-per-node 2 -m trainer preset=ct_gpu out=runs/ct   several GPUs; the same result as one

  python -m trainer COMMAND --help                              one of: {commands}

presets: {presets}

settings and their defaults:
{settings}"""

COMMANDS = {
    "crops": "trainer.redraw:main",
    "data": "trainer.data.command:main",
    "diagnose": "trainer.diagnose.command:main",
    "embed": "trainer.trained.embed:main",
    "export": "trainer.trained.export:main",
    "pictures": "trainer.portray:main",
    "preflight": "trainer.preflight.command:main",
}
"""What else the first word may ask for: `module:function`, called with the words after it; returns the exit code."""

EXIT_DONE, EXIT_FAILED, EXIT_INVALID, EXIT_INTERRUPTED = 0, 1, 2, 3
EXIT_PIPE = 128 + signal.SIGPIPE
"""As a shell says of a program that nobody reads any more."""
KEPT = 8
"""Measures that the alarm looks back on, and some more."""
WATCHED = ("train/loss_total", "train/prototype_entropy_foreground", "train/foreground_mutual_information", "probe/local_to_global_mrr")


class Terminal:
    """A run in a directory that prints its measures; the first Ctrl-C asks for a checkpoint, the second ends at once."""

    def __init__(self, directory: Path, steps: int) -> None:
        self.directory = directory
        self.interrupted = False
        self._steps = steps
        self._measures: list[Mapping[str, float]] = []
        self._alarm: tuple[str, int] | None = None
        self._started = time.monotonic()

    def interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        print("stopping at the next measured step (again: at once, from the last checkpoint) ...", flush=True)

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        shown = "  ".join(f"{name.split('/', 1)[1]} {metrics[name]:.4f}" for name in WATCHED if name in metrics)
        print(f"step {step}/{self._steps}  {time.monotonic() - self._started:.1f} s  {shown}", flush=True)
        self._measures = [*self._measures, metrics][-KEPT:]
        self._sound()
        return not self.interrupted

    def _sound(self) -> None:
        """Say a collapse once, and that it has ended."""
        from trainer.measure import alarm  # numpy takes longer than most commands

        heard = alarm(self._measures)
        now = None if heard is None else (heard.kind, heard.since_step)
        if heard is not None and now != self._alarm:
            print(f"alarm: {heard.text}", flush=True)
        elif heard is None and self._alarm is not None:
            print("alarm: over", flush=True)
        self._alarm = now


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 invalid, 3 interrupted and resumable."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        module, function = COMMANDS[given[0]].split(":")
        code: int = getattr(importlib.import_module(module), function)(given[1:])
        return code
    if any(word in ("-h", "--help", "help") for word in given):
        settings = "\n".join(f"  {path}={value}" for path, value in leaves(TrainerConfig()).items())
        print(USAGE.format(commands=", ".join(COMMANDS), presets=", ".join(presets()), settings=settings))
        return EXIT_DONE
    outs = [word.split("=", 1)[1] for word in given if word.startswith("out=")]
    overrides = [word for word in given if not word.startswith("out=")]
    try:
        config = compose(overrides)
        if several() and not outs:
            raise ConfigError("out: several processes train together and need one directory. Name it: out=DIR.")
        directory = Path(outs[-1] if outs else f"runs/trainer/{datetime.now():%Y%m%d-%H%M%S}")
        directory.mkdir(parents=True, exist_ok=True)
        return _train(config, directory, overrides)
    except BrokenPipeError:
        raise
    except (ConfigError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_INVALID


def entry() -> int:
    """`main`, for a shell: who stops reading (`| head`) ends the program, and that is no failure of it."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it closes it
        return EXIT_PIPE
    return code


def _train(config: TrainerConfig, directory: Path, overrides: Sequence[str]) -> int:
    from trainer.train import NonFiniteLoss, train

    run = Terminal(directory, config.loop.steps)
    before = signal.signal(signal.SIGINT, run.interrupt)
    again = shlex.join(["python", "-m", "trainer", *overrides, f"out={directory}"])
    try:
        metrics = train(to_mapping(config), run)
    except NonFiniteLoss as error:
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_FAILED
    except ValueError as error:  # ConfigError, DataError, ProbeError, CheckpointError: each says its mend
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_INVALID
    except KeyboardInterrupt:
        print(f"ended at once. To go on from the last checkpoint:\n  {again}")
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)
    if run.interrupted and not (directory / "summary.json").exists():
        print(f"checkpoint saved. To go on:\n  {again}")
        return EXIT_INTERRUPTED
    if os.environ.get("RANK", "0") == "0":
        _table(metrics, directory)
    return EXIT_DONE


def several() -> bool:
    """Whether torchrun or its like started more than this process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _table(metrics: Mapping[str, float], directory: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "value", title=str(directory))
    for name in sorted(metrics):
        table.add_row(name, f"{metrics[name]:.4f}")
    Console().print(table)
    print((directory / "summary.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(entry())
