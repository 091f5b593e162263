"""What can be known of a trainer that is a command: its settings, from the config that it names; its code and data, by their files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ablate.command import COMMAND_OUTCOME, Command, DataVersion
from ablate.errors import TrainerError
from ablate.offers.setting import SettingType
from ablate.trial import flatten

SOURCES = re.compile(r"\.(?:py|pyx|sh|bash|c|cc|cpp|cu|cuh|h|hpp|rs|jl|lua|r|m|toml|ya?ml|json)$", re.IGNORECASE)
"""Files of a folder under version control that may decide what is trained."""

WHOLE_BYTES = 64 << 20
"""Data files up to this size are hashed whole; of larger ones the size and three samples of `SAMPLE_BYTES`."""
SAMPLE_BYTES = 1 << 20

GIT_S = 20.0


def base_of(command: Command) -> Mapping[str, object] | None:
    """The settings before any level; none where the study names none."""
    return command.base if isinstance(command.base, Mapping) else None


def setting_types(base: Mapping[str, object], seed_key: str) -> dict[str, SettingType]:
    """Dotted path to the kind of value that stands in the base; any other value may be put there."""
    kinds = (bool, int, float, str, list)
    found = {seed_key: SettingType(int, optional=True, free=True)}
    for path, value in flatten(base):
        kind = next((kind for kind in kinds if isinstance(value, kind)), float)
        found[path] = SettingType(kind, optional=True, free=True)
    return found


def executable(command: Command) -> str | None:
    """Where the command's program is; none where it cannot be found."""
    first = command.arguments[0] if command.arguments else ""
    if first == "{python}":
        return first
    search = str(command.environment.get("PATH", os.environ.get("PATH", os.defpath)))
    return shutil.which(first if os.sep not in first else str(Path(command.cwd) / first), path=search)


def code_version(command: Command) -> str:
    """Hash of the sources and of all that the study says of how they are run.

    Raises:
        TrainerError: A named path is not there.
    """
    digest = hashlib.sha256(json.dumps(command.model_dump(mode="json", include=set(COMMAND_OUTCOME)), sort_keys=True).encode())
    _add_files(digest, _sources(command), Path(command.cwd), sample=False)
    return digest.hexdigest()[:20]


def data_hash(command: Command) -> str:
    """Hash of the named data; empty where none is named.

    Raises:
        TrainerError: A named path is not there.
    """
    if isinstance(command.data, DataVersion):
        return hashlib.sha256(command.data.version.encode()).hexdigest()[:20]
    named = [command.data] if isinstance(command.data, str) else command.data
    if not named:
        return ""
    digest = hashlib.sha256()
    _add_files(digest, _named(named, Path(command.cwd), "trainer.data"), Path(command.cwd), sample=True)
    return digest.hexdigest()[:20]


def _sources(command: Command) -> list[Path]:
    root = Path(command.cwd)
    if command.code:
        return _named(command.code, root, "trainer.code")
    scripts = list(named_sources(command))
    folders = dict.fromkeys(script.parent for script in scripts)
    return sorted({*scripts, *(file for folder in folders for file in _versioned(folder))})


def named_sources(command: Command) -> Iterator[Path]:
    """Scripts and modules that the command line names, those that are files below its folder or beside it."""
    root = Path(command.cwd)
    arguments = command.arguments
    for position, argument in enumerate(arguments):
        if position and arguments[position - 1] == "-m":
            module = root / argument.replace(".", "/")
            package = root / argument.partition(".")[0]
            yield from (file for file in _walk(package) if file.suffix == ".py") if package.is_dir() else ()
            if module.with_suffix(".py").is_file():
                yield module.with_suffix(".py")
        elif (SOURCES.search(argument) or (position == 0 and os.sep in argument)) and (root / argument).is_file():
            yield root / argument


def _versioned(folder: Path) -> list[Path]:
    """Sources below a folder that git knows, as they stand now; none where it is no work tree.

    Their content counts, not the commit: a commit of the study's own file or of a text changes nothing that is trained.
    """
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    files = [folder / os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    return [file for file in files if SOURCES.search(file.name) and file.is_file() and not _is_study(file)]


def _is_study(file: Path) -> bool:
    if file.suffix not in (".yaml", ".yml"):
        return False
    text = file.read_text(encoding="utf-8", errors="replace")
    return all(re.search(rf"^{key}:", text, re.MULTILINE) for key in ("study", "trainer", "phases"))


def _named(names: Iterable[str], root: Path, where: str) -> list[Path]:
    found: list[Path] = []
    for name in names:
        path = root / Path(name).expanduser()
        if not path.exists():
            raise TrainerError(f"{where}: no such file or folder: {name} (from {root}). Name what is there, or leave it out.")
        found += _walk(path) if path.is_dir() else [path]
    return sorted(set(found))


def _walk(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return [f for f in files if not any(part == "__pycache__" or part.startswith(".") for part in f.relative_to(folder).parts)]


def _add_files(digest: hashlib._Hash, files: Iterable[Path], root: Path, *, sample: bool) -> None:
    base = root.resolve()
    for file in files:
        digest.update(f"{os.path.relpath(file.resolve(), base)}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
        with file.open("rb") as content:
            size = file.stat().st_size
            if not sample or size <= WHOLE_BYTES:
                while block := content.read(SAMPLE_BYTES):
                    digest.update(block)
                continue
            for start in (0, size // 2, size - SAMPLE_BYTES):
                content.seek(start)
                digest.update(content.read(SAMPLE_BYTES))
