"""A shard: what one rank holds, as one safetensors file of ``parameters``, ``velocity``, ``stats``.

Safetensors notices a file that is cut short, but not a flipped bit: the manifest's sha256 does.
The file says which run, step and rank it is of, so that it cannot stand in for another.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from exec.errors import ModelFileError
from exec.nn.backend import Array
from exec.runtime.checkpoint.manifest import Manifest, Role

FORMAT = "stepcast-shard-1"


@dataclass(frozen=True, slots=True)
class Held:
    """The elements from ``start`` on of the flat parameters that a rank's layout lists.

    ``velocity`` has as many, or is None where momentum is zero. A rank whose weights do not count
    has the role ``none``, and neither elements nor velocity. ``stats`` are all running statistics
    that its layout lists, if it trains and there are any, else None.
    """

    parameters: Array
    velocity: Array | None
    role: Role = Role.REPLICA
    start: int = 0
    stats: Array | None = None

    def __post_init__(self) -> None:
        if self.role is Role.NONE and (self.parameters.size or self.velocity is not None):
            raise ValueError(f"role none must hold nothing, got {self.parameters.size} elements")
        if self.velocity is not None and self.velocity.shape != self.parameters.shape:
            raise ValueError(
                f"velocity must be of shape {self.parameters.shape}, got {self.velocity.shape}"
            )

    @property
    def stop(self) -> int:
        """The end of the range."""
        return self.start + self.parameters.size

    @property
    def tensors(self) -> dict[str, Array]:
        """The arrays by the names they have in the file."""
        optional = {"velocity": self.velocity, "stats": self.stats}
        found = {name: array for name, array in optional.items() if array is not None}
        return {"parameters": self.parameters} | found

    @property
    def num_stats(self) -> int:
        """How many running statistics there are."""
        return 0 if self.stats is None else self.stats.size


def shard_name(rank: int) -> str:
    """Return the name of the file of ``rank``."""
    return f"rank-{rank:05d}.safetensors"


def encode_shard(
    held: Held, run_id: str, num_steps: int, rank: int, coordinates: tuple[int, int, int]
) -> bytes:
    """Return the file of what ``rank``, at ``coordinates`` of its mesh, holds.

    Raises:
        ModelFileError: a number is not finite; nobody could go on from it.
    """
    for name, array in held.tensors.items():
        if not np.isfinite(array).all():
            raise ModelFileError(
                f"{name} must be finite for a checkpoint, got others after {num_steps} steps; "
                f"use a smaller learning-rate"
            )
    labels = _labels(run_id, num_steps, rank, coordinates, held.role, held.start)
    return save(held.tensors, labels)


def read_shard(folder: Path, manifest: Manifest, rank: int) -> Held:
    """Return what ``rank`` had written, with the bits it wrote.

    Raises:
        ModelFileError: the file is missing, damaged, or not the one that the manifest means.
    """
    record = manifest.shards[rank]
    path = folder / record.file
    try:
        found = path.stat().st_size
        if found != record.nbytes:
            raise ModelFileError(f"{path} must have {record.nbytes} bytes, got {found}")
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise ModelFileError(f"{path} must have the sha256 in the manifest, got another")
    try:
        tensors, labels = load(data), _read_labels(data)
    except (SafetensorError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} must be a safetensors file: {error}") from error
    coordinates = record.dp_rank, record.stage, record.tp_rank
    num_steps = manifest.progress.num_steps
    expected = _labels(manifest.run_id, num_steps, rank, coordinates, record.role, record.start)
    for key, value in expected.items():
        if labels.get(key) != value:
            raise ModelFileError(
                f"{path} must be of {key} {value}, got {labels.get(key)}; "
                f"it is of another checkpoint"
            )
    has_velocity = manifest.has_momentum and record.role is not Role.NONE
    sizes = {"parameters": record.stop - record.start}
    sizes |= {"velocity": record.stop - record.start} if has_velocity else {}
    sizes |= {"stats": record.num_stats} if record.num_stats else {}
    if {name: (array.shape, array.dtype.name) for name, array in tensors.items()} != {
        name: ((size,), manifest.dtype) for name, size in sizes.items()
    }:
        wanted = " and ".join(f"{size} {manifest.dtype} numbers of {name}" for name, size in sizes.items())  # fmt: skip
        raise ModelFileError(f"{path} must hold {wanted}, got others")
    return Held(tensors["parameters"], tensors.get("velocity"), record.role, record.start, tensors.get("stats"))  # fmt: skip


def _labels(
    run_id: str,
    num_steps: int,
    rank: int,
    coordinates: tuple[int, int, int],
    role: Role,
    start: int,
) -> dict[str, str]:
    """Return what a shard says of itself, as text; its tensors tell the rest."""
    return {
        "format": FORMAT,
        "run_id": run_id,
        "num_steps": str(num_steps),
        "rank": str(rank),
        "dp_rank, stage, tp_rank": ", ".join(map(str, coordinates)),
        "role": role,
        "start": str(start),
    }


def _read_labels(data: bytes) -> dict[str, str]:
    """Return the text in the header of a safetensors file: its length in 8 bytes, then JSON."""
    stop = 8 + int.from_bytes(data[:8], "little")
    labels: dict[str, str] = json.loads(data[8:stop]).get("__metadata__", {})
    return labels
