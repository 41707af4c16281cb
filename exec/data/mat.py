"""MATLAB version 5 files, whose headers are checked before SciPy may read them.

SciPy's reader believes what a file says of itself, and a damaged type number ends the process. So
only real arrays of numbers pass, of known types, that promise no more than the file can hold.

Source: MathWorks, "MAT-File Format", the chapter on level 5.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from exec.data.reading import MOST_DEFLATE_SHRINKS, opened
from exec.errors import DataError

_HEADER_NBYTES = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # fmt: skip
_NUMBER_CLASSES = range(6, 16)  # double, single, and the integers; not cells, structs, text.
_IS_COMPLEX = 0x0800
_MOST_DIMS = 32
_HEAD_NBYTES = 512  # More than an array's header of that many dimensions and a name.
_HEAD_COMPRESSED_NBYTES = 1 << 16  # More than compresses to that.
_LIMIT_NBYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What a file says of one of its arrays."""

    dims: tuple[int, ...]
    stored: np.dtype[Any]  # The type of the numbers in the file; MATLAB's own may be wider.
    offset: int  # Of the variable in the file, in bytes.


def read_headers(path: Path) -> dict[str, ArrayHeader]:
    """Return the headers of a file's arrays by their names.

    Raises:
        DataError: the file is malformed, or holds what is no array of numbers; the message names
            the byte where the variable begins.
    """
    nbytes = path.stat().st_size if path.is_file() else 0
    headers: dict[str, ArrayHeader] = {}
    with opened(path) as file:
        order = _byte_order(path, file.read(_HEADER_NBYTES))
        offset = _HEADER_NBYTES
        while offset < nbytes:
            file.seek(offset)
            try:
                name, header, size = _variable(file, order, offset, nbytes - offset)
            except (ValueError, struct.error, zlib.error) as error:
                fault = "damaged header" if isinstance(error, struct.error) else error
                raise DataError(f"{path}: byte {offset}: {fault}") from error
            if name in headers:
                raise DataError(f"{path}: byte {offset}: a second variable {name}")
            headers[name] = header
            offset += size
    return headers


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file whose headers :func:`read_headers` has let pass."""
    # Only those who read such a file wait for it.
    from scipy.io import loadmat  # noqa: PLC0415
    from scipy.io.matlab import MatReadError  # noqa: PLC0415

    with opened(path) as file:
        try:
            content = loadmat(file)
        except (zlib.error, MatReadError, OSError, ValueError, TypeError) as error:
            raise DataError(f"{path}: damaged: {error}") from error
    return {name: array for name, array in content.items() if not name.startswith("__")}


def _byte_order(path: Path, head: bytes) -> str:
    if head.startswith((b"\x89HDF", b"MATLAB 7.3")):
        raise DataError(
            f"{path}: expected a MATLAB version 5 file, got version 7.3 (HDF5); "
            "save it anew with the option -v7"
        )
    order = {b"\0\1IM": "<", b"\1\0MI": ">"}.get(head[124:])
    if order is None or not head.startswith(b"MATLAB 5.0"):
        raise DataError(
            f"{path}: byte 0: expected the {_HEADER_NBYTES} bytes of a MATLAB version 5 header, "
            f"got {head[:10]!r}"
        )
    return order


def _variable(
    file: BinaryIO, order: str, offset: int, remaining: int
) -> tuple[str, ArrayHeader, int]:
    """Return the name and header of the variable that begins here, and its size in the file."""
    tag = file.read(8)
    if len(tag) < 8:
        raise ValueError(f"truncated, expected {8 - len(tag)} more bytes")
    kind, nbytes = struct.unpack(f"{order}II", tag)
    if nbytes > remaining - 8:
        raise ValueError(f"truncated, expected {nbytes + 8 - remaining} more bytes")
    if kind == _COMPRESSED:
        packed = file.read(min(nbytes, _HEAD_COMPRESSED_NBYTES))
        head = zlib.decompressobj().decompress(packed, _HEAD_NBYTES)
        most = nbytes * MOST_DEFLATE_SHRINKS
    else:
        head = tag + file.read(min(nbytes, _HEAD_NBYTES))
        most = nbytes
    name, header = _array_header(head, order, offset, most)
    return name, header, 8 + nbytes


def _array_header(head: bytes, order: str, offset: int, most: int) -> tuple[str, ArrayHeader]:
    """Return what the first bytes of an array say, which has at most ``most`` bytes in all."""
    kind, nbytes = struct.unpack_from(f"{order}II", head)
    if kind != _MATRIX:
        raise ValueError(f"expected an array (type {_MATRIX}), got type {kind}")
    if nbytes > min(most, _LIMIT_NBYTES):
        why = "the file can hold" if nbytes > most else f"the limit of {_LIMIT_NBYTES}"
        raise ValueError(f"header promises {nbytes} bytes, more than {why}")
    if struct.unpack_from(f"{order}II", head, 8) != (_UINT32, 8):
        raise ValueError("expected an array's flags")
    (flags,) = struct.unpack_from(f"{order}I", head, 16)
    if flags & 0xFF not in _NUMBER_CLASSES or flags & _IS_COMPLEX:
        raise ValueError(
            "expected an array of real numbers, got "
            + ("complex ones" if flags & 0xFF in _NUMBER_CLASSES else f"class {flags & 0xFF}")
        )
    kind, size, start, after = _element(head, order, 24)
    num_dims = size // 4
    if kind != _INT32 or size % 4 or not 2 <= num_dims <= _MOST_DIMS:
        raise ValueError(f"expected 2 .. {_MOST_DIMS} dimensions, got {size} bytes of type {kind}")
    dims: tuple[int, ...] = struct.unpack_from(f"{order}{num_dims}i", head, start)
    if min(dims) < 0:
        raise ValueError(f"dimensions must not be negative, got {dims}")
    kind, size, start, after = _element(head, order, after)
    raw = head[start : start + size]
    if kind != _INT8 or not raw.isalnum():
        raise ValueError(f"expected a variable's name, got {raw[:20]!r} of type {kind}")
    kind, size, start, _ = _element(head, order, after)
    if kind not in _STORED:
        raise ValueError(f"expected numbers of a known type, got type {kind}")
    stored = np.dtype(order + _STORED[kind])
    if size != math.prod(dims) * stored.itemsize or start + size > 8 + nbytes:
        shape = " x ".join(map(str, dims))
        raise ValueError(f"expected {shape} numbers of {stored.itemsize} bytes, got {size} bytes")
    return raw.decode("ascii"), ArrayHeader(dims, stored, offset)


def _element(head: bytes, order: str, start: int) -> tuple[int, int, int, int]:
    """Return an element's type and size, and where its bytes and the next element begin."""
    kind, size = struct.unpack_from(f"{order}II", head, start)
    if kind >> 16:  # Up to four bytes are in the tag itself.
        if kind >> 16 > 4:
            raise ValueError(f"expected up to 4 bytes in a tag, got {kind >> 16}")
        return kind & 0xFFFF, kind >> 16, start + 4, start + 8
    return kind, size, start + 8, start + 8 + -(-size // 8) * 8
