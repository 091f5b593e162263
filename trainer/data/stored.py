"""How NIfTI, MetaImage and NRRD files store their voxels, and the whole of them decoded once.

ITK reads a truncated NIfTI file without a word (the rest zeros), turns its NaN into 0, and does not see damage in compressed data:
so headers are read by ITK, voxels here, with the check sums of the compressed stream.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.errors import DataError

_BLOCK = 1 << 20
_HEADER_BLOCK = 1 << 16
"""A header is shorter than that; what is decompressed to read it is decompressed once more for the voxels."""
_NIFTI = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_META = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NRRD = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "uint8_t": "u1",
    "short": "i2", "int16": "i2", "int16_t": "i2", "signed short": "i2", "ushort": "u2", "unsigned short": "u2", "uint16": "u2",
    "uint16_t": "u2", "int": "i4", "int32": "i4", "int32_t": "i4", "uint": "u4", "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4",
    "float": "f4", "double": "f8",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """Where a file's voxels are and how they are written."""

    file: Path
    offset: int
    """Bytes before the voxels: before compression for `whole` files, else in the file."""
    dtype: np.dtype[Any]
    compressed: bool = False
    whole: bool = False
    """The file is compressed from its first byte on, header included."""
    slope: float = 1.0
    intercept: float = 0.0
    note: str = ""
    """Text of the header's extensions (NIfTI)."""


def stored(file: Path) -> Stored | None:
    """How a volume file is written; None for what only ITK reads (ASCII, bzip2, lists of files, other formats).

    Raises:
        DataError: A compressed file that is damaged in its header.
        OSError: It cannot be opened.
    """
    name = file.name.lower()
    if name.endswith((".nii.gz", ".nii")):
        return _nifti(file, name.endswith(".gz"))
    if name.endswith((".mha", ".mhd")):
        return _meta(file)
    return _nrrd(file) if name.endswith((".nrrd", ".nhdr")) else None


def voxels(described: Stored, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """All voxels as they are stored, held once.

    Raises:
        DataError: The file ends before its last voxel, or its compressed data are damaged.
        OSError: It cannot be opened.
    """
    count = int(np.prod(shape, dtype=np.int64))
    wanted, size = count * described.dtype.itemsize, described.file.stat().st_size
    # No compression of the DEFLATE kind shrinks more than 1032-fold: a damaged header must not ask for all memory there is.
    if wanted > size * (1040 if described.compressed else 1):
        raise DataError([_short(described.file, shape, wanted, size)])
    found = np.empty(count, dtype=described.dtype)
    into, at, skip = found.view(np.uint8).data, 0, described.offset if described.whole else 0
    for block in _blocks(described):
        if skip:
            dropped = min(skip, len(block))
            block, skip = block[dropped:], skip - dropped
        taken = min(len(block), wanted - at)
        into[at : at + taken] = block[:taken]
        at += taken
    if at < wanted:
        raise DataError([_short(described.file, shape, wanted, at)])
    return found.reshape(shape)


def _short(file: Path, shape: tuple[int, ...], wanted: int, got: int) -> str:
    grid = " x ".join(map(str, reversed(shape)))
    return f"{file}: expected {wanted} bytes for {grid} voxels but the file ends after {got}: it is cut short. Copy it again."


def _blocks(described: Stored, size: int = _BLOCK) -> Iterator[bytes]:
    with described.file.open("rb") as handle:
        if not described.whole:
            handle.seek(described.offset)
        if not described.compressed:
            while block := handle.read(size):
                yield block
            return
        yield from _inflated(handle, described.file, size)


def _inflated(handle: Any, file: Path, size: int) -> Iterator[bytes]:
    """Members of a gzip or zlib stream, one after the other, their check sums tested."""
    stream, fed = zlib.decompressobj(47), False
    try:
        while block := handle.read(size):
            out = b""
            while block or len(out) == size:  # what fills its bound may have more behind it
                block = block if fed else block.lstrip(b"\0")  # zeros may follow a member
                fed = fed or bool(block)
                # Bounded, because a block of a very even volume may hold all of it.
                out = stream.decompress(block, size)
                yield out
                block = stream.unconsumed_tail
                if stream.eof:
                    block = stream.unused_data
                    stream, fed = zlib.decompressobj(47), False
    except zlib.error as error:
        raise DataError(
            [f"{file}: expected whole compressed data but they are damaged ({error}). Copy or export the file again."]
        ) from error
    if fed:
        raise DataError([f"{file}: expected whole compressed data but the file ends too early: it is cut short. Copy it again."])


def _nifti(file: Path, compressed: bool) -> Stored | None:
    head = b""
    for block in _blocks(Stored(file, 0, np.dtype("u1"), compressed, whole=True), _HEADER_BLOCK):
        head += block
        if len(head) >= _HEADER_BLOCK:
            break
    if len(head) < 352:
        return None
    for order in "<>":
        number = {name: np.frombuffer(head, f"{order}{kind}", 1, at)[0] for name, (kind, at) in _NIFTI_AT.items()}
        if number["sizeof_hdr"] == 348:
            break
    else:
        return None
    kind, offset = _NIFTI.get(int(number["datatype"])), float(number["vox_offset"])
    if kind is None or not 0 <= offset < 1 << 31 or head[344:348] != b"n+1\0":
        return None
    slope, intercept = float(number["scl_slope"]), float(number["scl_inter"])
    scaled = np.isfinite([slope, intercept]).all() and slope != 0
    note = head[352 : int(offset)].decode("latin-1") if offset <= len(head) else ""
    return Stored(
        file,
        max(int(offset), 352),
        np.dtype(f"{order}{kind}"),
        compressed,
        whole=True,
        slope=slope if scaled else 1.0,
        intercept=intercept if scaled else 0.0,
        note=note,
    )


_NIFTI_AT = {
    "sizeof_hdr": ("i4", 0), "datatype": ("i2", 70), "vox_offset": ("f4", 108), "scl_slope": ("f4", 112), "scl_inter": ("f4", 116),
}  # fmt: skip


def _meta(file: Path) -> Stored | None:
    fields, header = {}, 0
    with file.open("rb") as handle:
        for line in iter(lambda: handle.readline(4096), b""):
            key, _, value = line.decode("latin-1").partition("=")
            fields[key.strip().lower()] = value.strip()
            if key.strip().lower() == "elementdatafile":
                header = handle.tell()
                break
    kind, where = _META.get(fields.get("elementtype", "")), fields.get("elementdatafile", "")
    if kind is None or not where or " " in where or where.upper() == "LIST" or fields.get("headersize", "0") not in ("0", ""):
        return None
    big = "true" in (fields.get("binarydatabyteordermsb", "").lower(), fields.get("elementbyteordermsb", "").lower())
    local = where.upper() == "LOCAL"
    return Stored(
        file if local else file.parent / where,
        header if local else 0,
        np.dtype(f"{'>' if big else '<'}{kind}"),
        compressed=fields.get("compresseddata", "").lower() == "true",
    )


def _nrrd(file: Path) -> Stored | None:
    fields, header = {}, 0
    with file.open("rb") as handle:
        for line in iter(lambda: handle.readline(4096), b""):
            text = line.decode("latin-1").strip()
            if not text:
                header = handle.tell()
                break
            key, colon, value = text.partition(":")
            if colon and not value.startswith("="):
                fields[key.strip().lower()] = value.strip()
    kind, encoding = _NRRD.get(fields.get("type", "").lower()), fields.get("encoding", "").lower()
    where = fields.get("data file", fields.get("datafile", ""))
    skips = {fields.get(key, "0") for key in ("line skip", "byte skip", "lineskip", "byteskip")}
    if kind is None or encoding not in ("raw", "gzip", "gz") or skips != {"0"} or " " in where or where.upper() == "LIST":
        return None
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "<" if sys.byteorder == "little" else ">")
    detached = file.parent / where if where else file
    return Stored(detached, 0 if where else header, np.dtype(f"{order}{kind}"), compressed=encoding != "raw")
