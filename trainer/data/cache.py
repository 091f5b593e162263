"""What was read once is kept: a private folder, keys by content, files that are whole or absent, bounded if asked."""

from __future__ import annotations

import getpass
import json
import os
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.config import Data
from trainer.data.errors import CacheError

OPEN_MAPS = 128
"""Arrays that stay mapped for their next use; each holds a file descriptor, of which a process often has 1024."""

Array = np.ndarray[Any, Any]


def cache_of(data: Data) -> Cache:
    """The cache of these settings: one object a folder and limit in a process.

    Raises:
        CacheError: The folder cannot be made, or belongs to somebody else.
    """
    folder = Path(data.cache_dir).expanduser() if data.cache_dir else Path(tempfile.gettempdir()) / f"trainer-cache-{getpass.getuser()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CacheError(
            [f"data.cache_dir: expected a folder that can be written but {folder}: {error.strerror}. Set another one."]
        ) from error
    if hasattr(os, "geteuid") and folder.stat().st_uid != os.geteuid():
        raise CacheError([f"data.cache_dir: expected a folder of your own but {folder} belongs to another user. Set another one."])
    return _cache(folder.resolve(), None if data.cache_limit_gb is None else int(data.cache_limit_gb * 1e9))


@lru_cache(maxsize=16)
def _cache(folder: Path, limit_bytes: int | None) -> Cache:
    return Cache(folder, limit_bytes)


class Cache:
    """Arrays and small texts in one folder; safe for several threads, and for several processes on one folder.

    With a limit, the arrays of oldest use go before a new one is written, never one that this process holds. Another process
    that holds a map of a removed file keeps it: its space is freed when that process lets go.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder = folder
        self._limit = limit_bytes
        self._lock = threading.RLock()
        self._recent: OrderedDict[str, Array] = OrderedDict()
        self._held: weakref.WeakValueDictionary[str, Array] = weakref.WeakValueDictionary()
        self._size: int | None = None
        self._journals: dict[str, Journal] = {}

    def journal(self, name: str) -> Journal:
        """The table of this name, in `NAME.jsonl`."""
        with self._lock:
            if name not in self._journals:
                self._journals[name] = Journal(self.folder / f"{name}.jsonl")
            return self._journals[name]

    def array(self, name: str) -> Array | None:
        """A read-only map of the kept array; None where there is none, or only a damaged one."""
        with self._lock:
            held = self._held.get(name)
            if held is None or self._cut_short(name, held):
                try:
                    held = np.load(self.folder / name, mmap_mode="r")
                except (OSError, ValueError, EOFError):
                    return None
                with suppress(OSError):  # what a read-only folder keeps can be read as it is
                    os.utime(self.folder / name)
                self._held[name] = held
            self._recent[name] = held
            self._recent.move_to_end(name)
            if len(self._recent) > OPEN_MAPS:
                self._recent.popitem(last=False)
            return held

    def _cut_short(self, name: str, held: Array) -> bool:
        """Reading a map beyond the end of its file would end the process. A removed file stays whole while it is mapped."""
        try:
            return os.stat(self.folder / name).st_size < held.nbytes
        except OSError:
            return False

    def keep_array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic], parts: Iterable[Array]) -> None:
        """Write an array part by part along its first axis, so that it is never whole in memory; errors as `keep_text`."""
        described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}

        def fill(handle: BinaryIO) -> None:
            np.lib.format.write_array_header_1_0(handle, described)
            for part in parts:
                handle.write(np.ascontiguousarray(part, dtype=dtype).data)

        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._make_room(size)
        self._write(name, fill)
        with self._lock:
            self._held.pop(name, None)
            self._recent.pop(name, None)
            if self._size is not None:
                self._size += size

    def text(self, name: str) -> str | None:
        """A kept text; None where there is none."""
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    def keep_text(self, name: str, content: str) -> None:
        """Write a text.

        Raises:
            CacheError: The disk is full, or the folder cannot be written.
        """
        self._write(name, lambda handle: handle.write(content.encode()))

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """One process at a time on this name; the others wait. Where the file system has no locks, nobody waits.

        Raises:
            CacheError: The folder cannot be written.
        """
        path = self.folder / f"{name}.lock"
        try:
            handle = path.open("w")
        except OSError as error:
            raise CacheError([f"data.cache_dir: expected to write {path} but got: {error.strerror}. Set another folder."]) from error
        with handle:
            try:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX)
            except (ImportError, OSError):
                pass
            yield

    def _make_room(self, coming: int) -> None:
        if self._limit is None:
            return
        with self._lock:
            if self._size is not None and self._size + coming <= self._limit:
                return
            files = self._by_age()
            self._size = sum(size for _, size, _ in files)
            for _, size, name in files:
                if self._size + coming <= self._limit:
                    return
                self._recent.pop(name, None)
                if name not in self._held:
                    (self.folder / name).unlink(missing_ok=True)
                    self._size -= size

    def _by_age(self) -> list[tuple[int, int, str]]:
        """Time of last use in ns, bytes and name of each kept array, oldest first."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".npy"):
                    try:
                        facts = entry.stat()
                    except FileNotFoundError:  # another process made room
                        continue
                    found.append((facts.st_mtime_ns, facts.st_size, entry.name))
        return sorted(found)

    def _write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        path = self.folder / name
        beside = path.with_name(f".{name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with beside.open("wb") as handle:
                fill(handle)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(beside, path)
        except OSError as error:
            cause = error.strerror or error
            raise CacheError(
                [f"data.cache_dir: expected to write {path} but got: {cause}. Make room there or set another folder."]
            ) from error
        finally:
            beside.unlink(missing_ok=True)


@dataclass(frozen=True)
class Kept:
    """Where a scan's arrays are kept: what is computed from it is kept beside it."""

    cache: Cache
    key: str

    def array(self, what: str, shape: tuple[int, ...], dtype: type[np.generic], parts: Callable[[], Iterable[Array]]) -> Array:
        """The array of this name, made now where it is not there.

        Raises:
            CacheError: It cannot be written.
        """
        name = f"{self.key}.{what}.npy"
        found = self.cache.array(name)
        if found is None or found.shape != shape:
            self.cache.keep_array(name, shape, dtype, parts())
            found = self.cache.array(name)
        if found is None:
            raise CacheError(
                [f"data.cache_dir: expected {name} in {self.cache.folder} to be read back but it was not. Set another folder."]
            )
        return found


class Journal:
    """A table on disk that only grows: one JSON line an entry, the last of a key counts.

    A line torn by a crash is as if it had never been written, so an entry is whole or absent without a rename for each.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[str, Any] = {}
        self._read_to = 0
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes have added."""
        with self._lock:
            try:
                with self._path.open("rb") as handle:
                    handle.seek(self._read_to)
                    content = handle.read()
            except FileNotFoundError:
                return
            whole = content[: content.rfind(b"\n") + 1]  # what comes after it is torn, or still being written
            for line in whole.splitlines():
                try:
                    key, value = json.loads(line)
                except ValueError:
                    continue
                self._entries[key] = value
            self._read_to += len(whole)

    def get(self, key: str) -> Any:
        """The value of a key; None where it has none."""
        return self._entries.get(key)

    def put(self, key: str, value: object) -> None:
        """Add an entry.

        Raises:
            CacheError: The file cannot be written.
        """
        with self._lock:
            line = json.dumps([key, value]) + "\n"
            try:
                with self._path.open("a+b") as handle:
                    if handle.tell():
                        handle.seek(-1, os.SEEK_END)
                        line = line if handle.read(1) == b"\n" else f"\n{line}"
                    handle.write(line.encode())
            except OSError as error:
                cause = error.strerror or error
                raise CacheError(
                    [f"data.cache_dir: expected to write {self._path} but got: {cause}. Make room there or set another folder."]
                ) from error
            self._entries[key] = value
