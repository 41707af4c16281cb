"""Samples: single measurements, as JSON lines whose first record is the provenance."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from calibration.machine import CopyDirection, Positive, Tier
from exec.errors import MachineError
from exec.program.ops import Kernel, Shape


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class KernelSample(_Record):
    """The median time of ``kernel`` on a shape, inside training steps of a rank that holds
    ``working_set`` bytes; the letters are those of :class:`exec.program.ops.Shape`.
    """

    kind: Literal["kernel"] = "kernel"
    kernel: Kernel
    n: int
    k: int
    m: int
    p: int = 1
    q: int = 1
    w: int = 1
    working_set: int
    time_s: float

    @property
    def shape(self) -> Shape:
        """What was worked on."""
        return Shape(self.n, self.k, self.m, self.p, self.q, self.w)


class StepSample(_Record):
    """A whole step: its median time, the sum of its ``num_ops`` ops' medians, its relative spread.

    Of many steps, ``quantiles`` are those of their times over the mean, as in
    :class:`exec.noise.Noise`, and ``tail`` is by how much what is above the last is so in the mean.
    """

    kind: Literal["step"] = "step"
    net: str
    batch: int
    is_neighbour_busy: bool
    time_s: Positive
    ops_s: float
    rel_sigma: float
    num_ops: Annotated[int, Field(ge=0)] = 0
    quantiles: tuple[float, ...] = ()
    tail: float = 0.0


class MessageSample(_Record):
    """The time of an exchange (both ways at once), of a library all-reduce, of the sum of another
    rank's window of shared memory while that one does the same, or of a barrier.
    """

    kind: Literal["exchange", "rested", "allreduce", "window", "barrier"]
    tier: Tier
    ranks: Annotated[int, Field(ge=2)]
    nbytes: int
    time_s: float


class OverlapSample(_Record):
    """How much of a library all-reduce went on during compute."""

    kind: Literal["overlap"] = "overlap"
    tier: Tier
    nbytes: int
    blocking_s: Positive
    left_s: float


class LaunchSample(_Record):
    """What one more launch costs a GPU: the time of a graph of ``num_launches``, divided by them."""

    kind: Literal["launch"] = "launch"
    num_launches: Annotated[int, Field(ge=1)]
    time_s: Positive


class CopySample(_Record):
    """The time of a copy between pinned memory of the host and a GPU's."""

    kind: Literal["copy"] = "copy"
    direction: CopyDirection
    nbytes: Annotated[int, Field(ge=1)]
    time_s: Positive


class StorageSample(_Record):
    """The time of a whole checkpoint of one rank that holds ``nbytes``."""

    kind: Literal["storage"] = "storage"
    nbytes: Annotated[int, Field(ge=1)]
    time_s: Positive


Sample = (
    KernelSample
    | StepSample
    | MessageSample
    | OverlapSample
    | LaunchSample
    | CopySample
    | StorageSample
)
_ADAPTER: TypeAdapter[Sample] = TypeAdapter(Sample)


def write_samples(path: Path, provenance: dict[str, str], samples: Iterable[Sample]) -> None:
    """Write ``samples`` to ``path``, the provenance first."""
    lines = [json.dumps({"kind": "provenance", **provenance})]
    lines += [sample.model_dump_json() for sample in samples]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise MachineError(f"samples file {path} cannot be written: {error}") from error


def read_samples(path: Path) -> tuple[dict[str, str], list[Sample]]:
    """Return the provenance and the samples in ``path``.

    Raises:
        MachineError: the file is absent, or a line is no sample; the message names it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        provenance = json.loads(lines[0]) if lines else {}
        if not isinstance(provenance, dict) or provenance.pop("kind", "") != "provenance":
            raise MachineError(f"{path}, line 1 must be the provenance record")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MachineError(f"samples file {path} cannot be read: {error}") from error
    samples = []
    for number, line in enumerate(lines[1:], 2):
        try:
            samples.append(_ADAPTER.validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise MachineError(f"{path}, line {number} must be a sample: {problem}") from error
    return provenance, samples
