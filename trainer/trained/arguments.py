"""Command lines about a trained network: words are paths, `key=value` are settings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from trainer.checkpoint import Which
from trainer.config import ConfigError
from trainer.trained.network import Network, open_network

_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")
_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # YAML 1.1 takes 1e-3 for a text


def parser(name: str, description: str, which: Which) -> argparse.ArgumentParser:
    """A parser with the options that say which network is meant.

    Args:
        which: The network that is taken unless --student or --teacher names one.
    """
    made = argparse.ArgumentParser(f"python -m trainer {name}", description=description, epilog="key=value changes data.* and measure.*")
    either = made.add_mutually_exclusive_group()
    for one in ("teacher", "student"):
        said = "" if one != which else " (default)"
        either.add_argument(f"--{one}", dest="which", action="store_const", const=one, default=which, help=f"take the {one}{said}")
    return made


def with_factory(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same with the option that opens somebody else's checkpoint."""
    text = "package.module:function that builds a module from what the file holds: crops [n,1,d,h,w] -> features, or (features, logits)"
    made.add_argument("--factory", metavar="M:F", help=text)
    return made


def split(words: Sequence[str]) -> tuple[list[str], dict[str, object]]:
    """What is not `key=value`, and what is, with values read as YAML.

    Raises:
        ConfigError: A value that is no YAML.
    """
    rest, settings = [], {}
    for word in words:
        if not _SETTING.match(word):
            rest.append(word)
            continue
        key, _, text = word.partition("=")
        try:
            settings[key] = float(text) if _SCIENTIFIC.fullmatch(text) else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{key}: expected a value but got {text!r}. Quote it, or write a number, true, false or null.") from error
    return rest, settings


def network(given: argparse.Namespace, settings: dict[str, object], data: str) -> Network:
    """The network that the command line names, to read the scans of `data`."""
    return open_network(Path(given.checkpoint), {**settings, "data.source": data}, given.factory, given.which)
