"""Download a published file once, and believe it only by its checksum.

The bytes go to a temporary file beside the target, which takes the target's name only after size
and checksum agree: ranks that race for one cache each install the same complete file.
"""

import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exec.data.reading import Checksum, new_hash
from exec.errors import DataError

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file with an address, and what its bytes must be."""

    name: str
    url: str
    nbytes: int
    digest: str  # Hexadecimal, as is the next.
    digest_inflated: str | None = None  # Of a file that ends in .gz, uncompressed.
    checksum: Checksum = Checksum.SHA256

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names it goes by on a disk: as published, and uncompressed."""
        return tuple(dict.fromkeys((self.name, self.name.removesuffix(".gz"))))

    def is_official(self, digest: str) -> bool:
        """Return whether a file of this checksum is the published one, inflated or not."""
        return digest in (self.digest, self.digest_inflated)


def fetch(
    file: PublishedFile,
    directory: Path,
    log: Callable[[str], None],
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Download ``file`` into ``directory`` and return its path.

    Raises:
        DataError: it cannot be had, is not what it should be, or cannot be stored.
    """
    log(f"downloading {file.url} ({file.nbytes / 1e6:.1f} MB) to {directory}")
    target = directory / file.name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(".part", f"{file.name}.", directory)
    except OSError as error:
        raise DataError(f"{directory}: cannot store {file.name} here: {_reason(error)}") from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            digest, received = _copy(file, out.write, timeout_s)
        if received != file.nbytes:
            got = f"{received}" if received < file.nbytes else "more"
            raise DataError(f"{file.url}: expected {file.nbytes} bytes, got {got}")
        if digest != file.digest:
            raise DataError(f"{file.url}: expected {file.checksum} {file.digest}, got {digest}")
        os.replace(part, target)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{file.url}: {_reason(error)}") from error
    finally:
        # After os.replace there is nothing left to remove.
        Path(part).unlink(missing_ok=True)
    return target


def _copy(
    file: PublishedFile, write: Callable[[bytes], object], timeout_s: float
) -> tuple[str, int]:
    """Write what the address serves, at most one byte too many; return its checksum and size."""
    digest = new_hash(file.checksum)
    received = 0
    with urllib.request.urlopen(file.url, timeout=timeout_s) as response:
        while piece := response.read(min(1 << 16, file.nbytes + 1 - received)):
            digest.update(piece)
            write(piece)
            received += len(piece)
    return digest.hexdigest(), received


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    code = getattr(error, "code", None)
    text = f"{code} {reason}" if code else str(reason)
    return text or type(error).__name__
