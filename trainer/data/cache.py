"""What was read once is kept: a private folder, keys by content, files that are whole or absent."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.config import Data
from trainer.data.errors import CacheError


def cache_folder(data: Data) -> Path:
    """Where read volumes are kept; made private to the user.

    Raises:
        DataError: It cannot be made, or belongs to somebody else.
    """
    folder = Path(data.cache_dir).expanduser() if data.cache_dir else Path(tempfile.gettempdir()) / f"trainer-cache-{getpass.getuser()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CacheError(
            [f"data.cache_dir: expected a folder that can be written but {folder}: {error.strerror}. Set another one."]
        ) from error
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise CacheError([f"data.cache_dir: expected a folder of your own but {folder} belongs to another user. Set another one."])
    return folder


def content_hash(files: Sequence[Path], data: Data) -> str:
    """SHA-256 over the contents of files; remembered by path, size and time of change."""
    if not files:
        return ""
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    memo = cache_folder(data) / f"hash-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}"
    if memo.exists():
        return memo.read_text()
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                whole.update(block)
    keep_bytes(memo, whole.hexdigest().encode())
    return whole.hexdigest()


def keep_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write an array as `.npy`; errors as `_write`."""
    _write(path, lambda handle: np.save(handle, array))


def keep_bytes(path: Path, content: bytes) -> None:
    """Write bytes; errors as `_write`."""
    _write(path, lambda handle: handle.write(content))


def _write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Whole or not at all: beside, to the disk, then renamed.

    Raises:
        DataError: The disk is full, or the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as handle:
            fill(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        cause = error.strerror or error
        raise CacheError([f"data.cache_dir: expected to write {path} but got: {cause}. Make room there or set another folder."]) from error
