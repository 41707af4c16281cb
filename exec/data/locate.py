"""Find a dataset's file: where the user says, else in the cache, else at its address."""

import os
from collections.abc import Callable
from pathlib import Path

from exec.cache import cache_root
from exec.data.download import PublishedFile, fetch
from exec.data.reading import digest_of
from exec.errors import DataError

_WAY_OUT = "pass --data-dir DIR or use --data drawn"


def locate(
    file: PublishedFile, dataset: str, data_dir: Path | None, log: Callable[[str], None]
) -> Path:
    """Return the path of ``file``, downloading it into the cache where that is allowed.

    A file in ``data_dir`` is the user's own and may be any; one in the cache came from the
    address, and must still have its checksum.

    Raises:
        DataError: it is nowhere, or the one in the cache has been damaged.
    """
    if data_dir is not None:
        found = find_file(file.names, dataset, data_dir)
        if found is None:
            absent = "neither" if len(file.names) > 1 else "it in neither"
            raise DataError(
                f"{dataset} needs {' or '.join(file.names)} in {data_dir} or {data_dir / dataset}, "
                f"found {absent}; get it from {file.url} or use --data drawn"
            )
        return found
    cache = cache_dir()
    found = find_file(file.names, dataset, cache)
    if found is None:
        try:
            return fetch(file, cache, log)
        except DataError as error:
            raise DataError(
                f"{dataset} needs {file.name}, which is not in {cache}, and the download failed "
                f"({error}); {_WAY_OUT}"
            ) from error
    if os.path.isfile(found) and not file.is_official(digest := digest_of(found, file.checksum)):
        raise DataError(
            f"{found}: expected {file.checksum} {file.digest}, got {digest}; "
            f"delete it to download it anew, or {_WAY_OUT}"
        )
    return found


def find_file(names: tuple[str, ...], dataset: str, directory: Path) -> Path | None:
    """Return the first of ``names`` in ``directory`` or its folder for the dataset, or None."""
    for folder in (directory, directory / dataset):
        for name in names:
            # A directory or dangling link of that name counts: reading it will say what it is.
            if os.path.lexists(folder / name):
                return folder / name
    return None


def cache_dir() -> Path:
    """Return the folder into which datasets are downloaded."""
    return cache_root() / "data"
