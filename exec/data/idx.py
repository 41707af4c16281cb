"""The IDX format of MNIST: a header of big-endian integers, then unsigned bytes.

The header is 0, 0, the type (8, unsigned byte), the number of dimensions, and each dimension in
four bytes. It promises the file's size, and a file that breaks the promise is refused.
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from exec.data.reading import MOST_DEFLATE_SHRINKS, chunks, opened
from exec.errors import DataError

_UNSIGNED_BYTE = 8
_LIMIT_NBYTES = 1 << 30


def read_idx(path: Path, num_dims: int) -> NDArray[np.uint8]:
    """Read an array of ``num_dims`` dimensions from an IDX file of bytes, gzip or not.

    Raises:
        DataError: the file is malformed; the message names the byte, counted uncompressed.
    """
    with opened(path) as file:
        magic = _exactly(file, path, 0, 4)
        expected = bytes((0, 0, _UNSIGNED_BYTE, num_dims))
        if magic != expected:
            raise DataError(
                f"{path}: byte 0: expected IDX magic {expected.hex(' ')} "
                f"(unsigned bytes, {num_dims} dimensions), got {magic.hex(' ')}"
            )
        header = _exactly(file, path, 4, 4 * num_dims)
        dims: tuple[int, ...] = struct.unpack(f">{num_dims}I", header)
        for index, dim in enumerate(dims):
            if dim == 0:
                raise DataError(f"{path}: byte {4 + 4 * index}: dimension must be positive, got 0")
        start, nbytes = 4 + 4 * num_dims, math.prod(dims)
        _check_promise(path, dims, nbytes)
        content = _exactly(file, path, start, nbytes)
        # At the end gzip also compares its own checksum.
        if file.read(1):
            raise DataError(
                f"{path}: byte {start + nbytes}: expected the end of the file, got more bytes"
            )
    return np.frombuffer(content, np.uint8).reshape(dims)


def _check_promise(path: Path, dims: tuple[int, ...], nbytes: int) -> None:
    """Refuse a header that no file of this size could keep, before memory is taken for it."""
    most = path.stat().st_size * (MOST_DEFLATE_SHRINKS if path.suffix == ".gz" else 1)
    if nbytes > min(most, _LIMIT_NBYTES):
        shape = " x ".join(map(str, dims))
        why = "the file can hold" if nbytes > most else f"the limit of {_LIMIT_NBYTES}"
        raise DataError(f"{path}: byte 4: header promises {shape} bytes, more than {why}")


def _exactly(file: BinaryIO, path: Path, offset: int, nbytes: int) -> bytes:
    content = b"".join(chunks(file, nbytes))
    if len(content) < nbytes:
        raise DataError(
            f"{path}: byte {offset + len(content)}: truncated, "
            f"expected {nbytes - len(content)} more bytes"
        )
    return content
