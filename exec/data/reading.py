"""Read a dataset's file, plain or gzip, so that whatever is wrong with it becomes a DataError.

The name decides: a file that ends in ``.gz`` must be gzip. Readers ask for a bounded number of
bytes, so that a small file that inflates without end cannot fill the memory.
"""

import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, cast

from exec.errors import DataError

MOST_DEFLATE_SHRINKS = 1032  # Deflate cannot do better (zlib's technical details).

_CHUNK = 1 << 20


class Checksum(StrEnum):
    """How a file's publisher sums it up; MD5 tells damage, but not intent."""

    SHA256 = "SHA-256"
    MD5 = "MD5"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, inflating gzip; failures in the body too become a DataError."""
    try:
        # Opening a pipe would wait for its writer, so look before.
        if not stat.S_ISREG(os.stat(path).st_mode):
            kind = "a directory" if path.is_dir() else "neither file nor directory"
            raise DataError(f"{path}: expected a file, found {kind}")
        with path.open("rb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as inflated:
                    yield cast(BinaryIO, inflated)
            else:
                yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: {_gzip_trouble(path, error)}") from error
    except (OSError, ValueError) as error:  # ValueError is a NUL in the name.
        raise DataError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from (error)


def read_all(path: Path, limit: int) -> bytes:
    """Return the file's bytes, inflated, if they are at most ``limit``."""
    with opened(path) as file:
        content = b"".join(chunks(file, limit + 1))
    if len(content) > limit:
        raise DataError(f"{path}: must hold at most {limit} bytes uncompressed, got more")
    return content


def chunks(file: BinaryIO, nbytes: int) -> Iterator[bytes]:
    """Yield ``nbytes`` in pieces, or fewer where the file ends; memory grows with real bytes."""
    while nbytes > 0 and (piece := file.read(min(nbytes, _CHUNK))):
        nbytes -= len(piece)
        yield piece


def digest_of(path: Path, checksum: Checksum = Checksum.SHA256) -> str:
    """Return the checksum of the file as it lies on the disk, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: new_hash(checksum)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def new_hash(checksum: Checksum) -> "hashlib._Hash":
    """Return an empty hash, to be fed with bytes."""
    return hashlib.new(checksum.replace("-", ""), usedforsecurity=False)


def _gzip_trouble(path: Path, error: Exception) -> str:
    if isinstance(error, EOFError):
        return "truncated gzip: the file ends before the compressed data does"
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"\x1f\x8b":
        return (
            f"byte 0: expected gzip (1f 8b), got {start.hex(' ')}; "
            f"rename it to {path.stem} if it is already uncompressed"
        )
    if str(error).startswith("Not a gzipped file"):
        return "trailing bytes after the gzip data"
    return f"damaged gzip: {error}"
