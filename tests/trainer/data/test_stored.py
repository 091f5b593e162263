"""Voxels of every format, decoded here, are what ITK decodes; what ITK does not see is seen."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.errors import DataError
from trainer.data.stored import Stored, stored, voxels

TYPES = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64)


def made(path: Path, kind: type[np.generic], compressed: bool) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 100, (5, 6, 7)).astype(kind)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path), compressed)
    return values


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("suffix", "compressed"),
    [(".nii", False), (".nii.gz", True), *((s, c) for s in (".mha", ".mhd", ".nrrd", ".nhdr") for c in (True, False))],
)
def test_voxels_are_those_that_were_written(tmp_path: Path, suffix: str, compressed: bool, kind: type[np.generic]) -> None:
    values = made(tmp_path / f"a{suffix}", kind, compressed)
    described = stored(tmp_path / f"a{suffix}")
    assert described is not None
    read = voxels(described, values.shape)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == values.dtype


@pytest.mark.parametrize("order", "<>")
def test_a_nifti_header_is_read_in_either_byte_order_with_its_scale(tmp_path: Path, order: str) -> None:
    head = np.zeros(1, dtype=np.dtype([("size", f"{order}i4"), ("pad", "V66"), ("type", f"{order}i2"), ("pad2", "V36"),
                                       ("offset", f"{order}f4"), ("slope", f"{order}f4"), ("inter", f"{order}f4"), ("pad3", "V224"),
                                       ("magic", "S4")]))  # fmt: skip
    head["size"], head["type"], head["offset"], head["slope"], head["inter"], head["magic"] = 348, 4, 400, 2.0, -1024.0, b"n+1"
    values = np.arange(24, dtype=f"{order}i2").reshape(2, 3, 4)
    note = b'<Label Key="3">spleen</Label>'.ljust(52)
    (tmp_path / "a.nii").write_bytes(head.tobytes() + note + values.tobytes())
    described = stored(tmp_path / "a.nii")
    assert described is not None
    assert (described.slope, described.intercept) == (2.0, -1024.0)
    assert "spleen" in described.note
    np.testing.assert_array_equal(voxels(described, values.shape), values)


def test_formats_that_only_itk_reads_are_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_text("NRRD0004\ntype: short\ndimension: 3\nsizes: 1 1 2\nencoding: ascii\n\n1 2\n")
    (tmp_path / "a.mhd").write_text("ObjectType = Image\nElementType = MET_SHORT\nElementDataFile = LIST\n")
    assert [stored(tmp_path / name) for name in ("a.nrrd", "a.mhd")] == [None, None]


def plain(values: np.ndarray, file: Path) -> Stored:
    return Stored(file, 0, values.dtype, compressed=True, whole=True)


@settings(max_examples=40)
@given(
    content=st.one_of(st.binary(max_size=3000), st.integers(0, 3_000_000).map(bytes)),
    members=st.integers(1, 3),
    zeros=st.integers(0, 5),
    wrap=st.sampled_from([gzip.compress, zlib.compress]),
)
def test_any_stream_is_inflated_whole_whatever_its_members(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, members: int, zeros: int, wrap
) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path_factory.mktemp("s") / "a"
    parts = [content[at::members] for at in range(members)]
    file.write_bytes(b"".join(wrap(part) for part in parts) + bytes(zeros))
    values = np.frombuffer(b"".join(parts), dtype=np.uint8)
    np.testing.assert_array_equal(voxels(plain(values, file), values.shape), values)


@settings(max_examples=60)
@given(keep=st.floats(0.0, 0.999))
def test_a_stream_that_is_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, keep: float) -> None:
    file = tmp_path_factory.mktemp("s") / "a"
    whole = gzip.compress(np.random.default_rng(0).integers(0, 9, 4000, dtype=np.uint8).tobytes())
    file.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"cut short|damaged"):
        voxels(plain(np.zeros(1, np.uint8), file), (4000,))


def test_a_header_that_promises_more_than_any_memory_asks_for_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(bytes(1000)))
    with pytest.raises(DataError, match="cut short"):
        voxels(plain(np.zeros(1, np.uint8), tmp_path / "a"), (100_000, 100_000, 100_000))
