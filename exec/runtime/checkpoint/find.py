"""The newest good checkpoint: every candidate is verified whole, and a bad one names its fault."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from exec.errors import ModelFileError, StepcastError, UsageError
from exec.network.text import network_digest
from exec.runtime.checkpoint.manifest import MANIFEST, Manifest, decode_manifest
from exec.runtime.checkpoint.reshard import check_coverage
from exec.runtime.checkpoint.shard import read_shard
from exec.runtime.job import AgreedError, together
from exec.transport.protocol import Transport
from exec.workload import Workload

_STEP_FOLDER = re.compile(r"step-(\d{9,})")


@dataclass(frozen=True, slots=True)
class Found:
    """A good checkpoint, and one message for each newer one that was ``refused``."""

    folder: Path
    manifest: Manifest
    refused: tuple[str, ...]


def step_name(num_steps: int) -> str:
    """Return the name of the folder of the checkpoint after ``num_steps``."""
    return f"step-{num_steps:09d}"


def step_folders(directory: Path) -> dict[int, Path]:
    """Return the folders of checkpoints, finished or not, by step, newest first."""
    matches = [(_STEP_FOLDER.fullmatch(entry.name), entry) for entry in os.scandir(directory)]
    steps = {
        int(match[1]): Path(entry.path)
        for match, entry in matches
        if match and entry.is_dir(follow_symlinks=False) and step_name(int(match[1])) == entry.name
    }
    return dict(sorted(steps.items(), reverse=True))


def is_finished(folder: Path) -> bool:
    """Say whether ``folder`` has a manifest; raise OSError if it cannot be listed."""
    return MANIFEST in os.listdir(folder)


def newest_good(directory: Path, workload: Workload, dtype: str, transport: Transport) -> Found:
    """Return the newest good checkpoint in ``directory``; all ranks must call it together.

    The ranks share the reading of a candidate's shards, and agree on what they found.

    Raises:
        AgreedError: none is good, or one that comes before the first good one is of another
            network.
    """
    listed = together(transport, lambda: finished(directory))
    folders = transport.gather_objects(listed)[0]
    refused: list[str] = []
    for folder in folders:
        opened = transport.gather_objects(_open(folder) if transport.rank == 0 else "")[0]
        if isinstance(opened, Manifest):
            manifest = opened
            _check_network(folder, manifest, workload, dtype)
            faults = transport.gather_objects(_fault(folder, manifest, workload, transport))
            fault = next(filter(None, faults), "")
            if not fault:
                return Found(folder, manifest, tuple(refused))
        else:
            fault = opened
        refused.append(fault)
    if refused:
        raise AgreedError(f"no checkpoint in {directory} is good: {'; '.join(refused)}")
    raise AgreedError(f"a checkpoint to resume from must be in {directory}, got no finished one")


def finished(directory: Path) -> list[Path]:
    """Return the folders of the finished checkpoints in ``directory``, newest first.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return [folder for folder in step_folders(directory).values() if is_finished(folder)]
    except OSError as error:
        raise UsageError(
            f"checkpoints must be in a folder that can be read, got {directory}: {error.strerror}"
        ) from error


def _open(folder: Path) -> Manifest | str:
    """Return the manifest in ``folder``, or what is wrong with it."""
    path = folder / MANIFEST
    try:
        manifest = decode_manifest(path.read_bytes())
        listed = {record.file for record in manifest.shards}
        files = {name for name in os.listdir(folder) if name.endswith(".safetensors")}
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except ModelFileError as error:
        return f"{path} {error}"
    num_steps = manifest.progress.num_steps
    if step_name(num_steps) != folder.name:
        return f"{path} must be of {folder.name}, got step {num_steps}; it is of another checkpoint"
    if extra := sorted(files - listed):
        return f"{folder} must hold only the shards in its manifest, got {extra[0]} too"
    return manifest


def _check_network(folder: Path, manifest: Manifest, workload: Workload, dtype: str) -> None:
    """Raise, on every rank, unless network, number type and optimiser are those wanted."""
    digest = network_digest(workload.network)
    is_same = digest == manifest.net_digest  # a file may have moved, so its name is not asked
    if not is_same and workload.net == manifest.net:
        raise AgreedError(
            f"net {workload.net} must have the layers that it has in the checkpoint {folder}, "
            f"digest {manifest.net_digest}, got others, digest {digest}; resume with those, or "
            f"train anew in another folder"
        )
    for name, wanted, found in (
        ("net", manifest.net if is_same else workload.net, manifest.net),
        ("dtype", dtype, manifest.dtype),
        ("momentum", _spelled(workload.has_momentum), _spelled(manifest.has_momentum)),
    ):
        if wanted != found:
            raise AgreedError(
                f"{name} must be {found}, that of the checkpoint {folder}, got {wanted}; "
                f"resume with that, or train anew in another folder"
            )


def _spelled(has_momentum: bool) -> str:
    return "greater than 0" if has_momentum else "0"


def _fault(folder: Path, manifest: Manifest, workload: Workload, transport: Transport) -> str:
    """Return what is wrong with this rank's part of the shards; empty if nothing is."""
    if transport.rank == 0:
        try:
            check_coverage(manifest, workload)
        except StepcastError as error:
            return f"{folder / MANIFEST}: {error}"
    try:
        for rank in range(transport.rank, len(manifest.shards), transport.size):
            read_shard(folder, manifest, rank)
    except ModelFileError as error:
        return str(error)
    return ""
