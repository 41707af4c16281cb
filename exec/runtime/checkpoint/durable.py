"""Files that are whole or not there, whenever the process or the machine is killed.

A file is written under another name, forced to the disk, renamed, and then its folder is forced
to the disk too; see T. S. Pillai et al., "All file systems are not created equal", OSDI 2014.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from exec.runtime.checkpoint.manifest import MANIFEST

UNFINISHED = ".unfinished"

Announce = Callable[[str], None]
"""Called with what is about to be done to the disk, before each change of it."""


def write_durably(path: Path, data: bytes, announce: Announce) -> None:
    """Write ``data`` to ``path``; an older file is replaced once the new one is on the disk."""
    unfinished = path.with_name(path.name + UNFINISHED)
    announce(f"write {path.name}")
    with open(unfinished, "wb") as file:
        file.write(data)
        file.flush()
        announce(f"sync {path.name}")
        os.fsync(file.fileno())
    announce(f"rename {path.name}")
    unfinished.replace(path)
    announce(f"sync the folder of {path.name}")
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in ``folder`` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_checkpoint(folder: Path, announce: Announce) -> None:
    """Remove ``folder``, the manifest first: a kill leaves an unfinished checkpoint at most."""
    announce(f"remove the manifest of {folder.name}")
    (folder / MANIFEST).unlink(missing_ok=True)
    announce(f"remove {folder.name}")
    shutil.rmtree(folder)
