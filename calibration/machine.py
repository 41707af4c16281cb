"""The Machine: all that a forecast stands on, as one JSON document of pure data.

Every number carries its unit in its name, each section the range it was fitted on, its relative
uncertainty (one standard deviation) and its source. What a forecast asks beyond a range is
answered, and flagged as extrapolated.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from calibration.collective_model import CollectiveModel
from calibration.fabric import FabricModel
from calibration.features import LATER, features, features_missing
from calibration.importers.measured import Operation
from calibration.processor import CPU, Processor
from calibration.section import NonNegative, Section, Share
from calibration.section import Positive as Positive  # noqa: PLC0414  # others know these three from here
from calibration.section import Range as Range  # noqa: PLC0414
from calibration.section import Tier as Tier  # noqa: PLC0414
from exec.device.kind import DeviceKind
from exec.errors import MachineError
from exec.noise import Distribution, Noise
from exec.program.ops import Kernel, Shape

_ONE = Range(low=1, high=1)
NodeNumber = Annotated[int, Field(ge=0, strict=False)]  # a key, which JSON spells as text
RankCount = Annotated[int, Field(ge=3, strict=False)]
Slowness = Annotated[float, Field(ge=1)]


class KernelModel(Section):
    """The time of one kernel: the sum of ``coefficients_s`` times the features of a shape.

    The features are those of :mod:`calibration.features`, the ranges those of the letters of
    :class:`exec.program.ops.Shape`. A model from before there were images has no ``p``, ``q``, ``w``.
    """

    coefficients_s: dict[str, NonNegative]
    n: Range
    k: Range
    m: Range
    p: Range = _ONE
    q: Range = _ONE
    w: Range = _ONE
    rel_sigma: NonNegative
    num_samples: Annotated[int, Field(ge=0)]

    def time_s(
        self, kernel: Kernel, shape: Shape, working_set: int, caches: tuple[int, int], processor: Processor = CPU
    ) -> float:  # fmt: skip
        """Return the time of ``kernel`` on ``shape``, in seconds."""
        return self._sum_s(features(kernel, shape, working_set, caches, processor))

    def time_missing_s(
        self, kernel: Kernel, shape: Shape, shares: tuple[float, float], caches: tuple[int, int], processor: Processor
    ) -> float:  # fmt: skip
        """Return the time where the caches miss ``shares`` of what is held: linear in them."""
        return self._sum_s(features_missing(kernel, shape, shares, caches, processor))

    def _sum_s(self, values: dict[str, float]) -> float:
        return sum(coefficient * values[name] for name, coefficient in self.coefficients_s.items())

    def is_within(self, shape: Shape) -> bool:
        """Say whether ``shape`` is within the ladder on which the model was fitted."""
        return (
            self.n.holds(shape.n)
            and self.k.holds(shape.k)
            and self.m.holds(shape.m)
            and self.p.holds(shape.p)
            and self.q.holds(shape.q)
            and self.w.holds(shape.w)
        )


class NoiseModel(Section):
    """How step times are distributed about their mean: :class:`exec.noise.Noise`, in a file.

    What was measured has ``quantiles``, and ``tail`` is by how much what is above the last of them is
    so in the mean.
    """

    distribution: Distribution
    sigma: NonNegative
    quantiles: tuple[NonNegative, ...] = ()
    tail: NonNegative = 0.0

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> "NoiseModel":
        is_measured = self.distribution is Distribution.MEASURED
        if is_measured != (len(self.quantiles) > 1):
            raise ValueError(f"quantiles must be given where the distribution is measured, and only there, got {len(self.quantiles)} for {self.distribution}")  # fmt: skip
        if list(self.quantiles) != sorted(self.quantiles):
            raise ValueError("quantiles must be in order")
        if self.distribution is Distribution.EXPONENTIAL and self.sigma > 1:
            raise ValueError(f"sigma must be at most 1 for an exponential, got {self.sigma}")
        return self

    @property
    def noise(self) -> Noise:
        """The distribution."""
        return Noise(self.distribution, self.sigma, self.quantiles, self.tail)

    @staticmethod
    def of(noise: Noise) -> "NoiseModel":
        """Return ``noise`` for a file."""
        return NoiseModel(distribution=noise.distribution, sigma=noise.sigma, quantiles=noise.quantiles, tail=noise.tail)  # fmt: skip


class Compute(Section):
    """What one rank computes with, and what its neighbours on the node cost it.

    ``cache_nbytes`` are the working sets beyond which weights no longer stay in the inner and
    the outer cache. ``busy_slowdown`` multiplies times when all of ``cores_per_node`` are busy.
    ``noise_rel_sigma`` is the spread of one rank's step time, lognormal unless ``noise`` says how it
    is distributed. ``kernels`` need not name every
    kernel: a Machine older than a kernel still answers for networks without it.

    Where the ``device`` is a GPU, ``cores_per_node`` counts GPUs, ``memory_nbytes`` is that of all
    of them, and ``launch_s`` what one more launch costs.
    """

    device: DeviceKind = DeviceKind.CPU
    num_multiprocessors: Annotated[int, Field(ge=1)] = 1
    is_tf32: bool = False
    launch_s: NonNegative = 0.0
    source: str
    dtype: Literal["float32", "float64"]
    cores_per_node: Annotated[int, Field(ge=1)]
    memory_nbytes: Annotated[int, Field(ge=1)]
    cache_nbytes: tuple[int, int]
    kernels: Annotated[dict[Kernel, KernelModel], Field(min_length=1)]
    step_overhead_s: NonNegative
    busy_slowdown: Annotated[float, Field(ge=1)]
    noise_rel_sigma: NonNegative
    noise: NoiseModel | None = None

    @property
    def step_noise(self) -> Noise | None:
        """How the steps of a rank differ, or None if they do not."""
        if self.noise is not None:
            return self.noise.noise if self.noise.sigma else None
        sigma = self.noise_rel_sigma
        return Noise(Distribution.LOGNORMAL, sigma) if sigma else None

    def with_noise(self, noise: Noise | None) -> "Compute":
        """Return it with steps that differ by ``noise``."""
        model = None if noise is None else NoiseModel.of(noise)
        sigma = 0.0 if noise is None else noise.sigma
        return self.model_copy(update={"noise": model, "noise_rel_sigma": sigma})

    @property
    def processor(self) -> Processor:
        """The chip, as the features of kernels see it."""
        return Processor(self.device, self.num_multiprocessors)

    @property
    def memory_nbytes_per_core(self) -> int:
        """What each of ``cores_per_node`` has of the memory."""
        return self.memory_nbytes // self.cores_per_node

    @model_validator(mode="after")
    def _knows_its_coefficients(self) -> "Compute":
        for kernel, model in self.kernels.items():
            known = features(kernel, Shape(1, 1, 1), 1, (1, 1), self.processor)
            later = set() if self.device.has_streams else LATER.get(kernel, set())
            if set(model.coefficients_s) | later != set(known):
                raise ValueError(
                    f"{kernel} must have a coefficient for each of {', '.join(known)}, got "
                    f"{', '.join(model.coefficients_s) or 'none'}"
                )
        return self


class Segment(Section):
    """``alpha_s + beta_s_per_byte * n`` for messages of up to ``up_to_nbytes`` bytes."""

    up_to_nbytes: Positive
    alpha_s: NonNegative
    beta_s_per_byte: NonNegative


class Curve(Section):
    """A time as a function of message size, piecewise linear: R. Hockney, "The communication
    challenge for MPP", Parallel Computing 20 (1994) 389-398, with a segment per protocol.

    Beyond the last knee, the last segment goes on.
    """

    segments: Annotated[tuple[Segment, ...], Field(min_length=1)]
    nbytes: Range
    rel_sigma: NonNegative
    source: str

    @model_validator(mode="after")
    def _is_ordered(self) -> "Curve":
        knees = [segment.up_to_nbytes for segment in self.segments]
        if knees != sorted(set(knees)):
            raise ValueError(f"segments must be in order of up_to_nbytes, got {knees}")
        return self

    def at(self, nbytes: float) -> tuple[float, float]:
        """Return ``(alpha_s, beta_s_per_byte)`` for a message of ``nbytes``."""
        for segment in self.segments:
            if nbytes <= segment.up_to_nbytes:
                return segment.alpha_s, segment.beta_s_per_byte
        last = self.segments[-1]
        return last.alpha_s, last.beta_s_per_byte

    def time_s(self, nbytes: float) -> float:
        """Return what ``nbytes`` take, in seconds."""
        alpha_s, beta_s_per_byte = self.at(nbytes)
        return alpha_s + beta_s_per_byte * nbytes

    @property
    def wire_s_per_byte(self) -> float:
        """What a byte of large messages takes, which are those that fill a link."""
        return self.segments[-1].beta_s_per_byte


class Link(Section):
    """What joins two ranks: messages, and the library's all-reduce between two of them.

    ``allreduce`` is fitted to two ranks, or to what more ranks imply for two (see
    :func:`sim.collectives.library_allreduce_s`); ``allreduce_ranks`` are the counts measured. A
    message of more than ``eager_limit_nbytes`` does not leave before its receive is posted; without
    a limit all leave at once. What was measured between GPUs is ``from_device``: from memory of
    theirs to memory of theirs. A node has ``lanes`` of it, of which a rank drives one: a message is
    never faster than one, the all-reduce is that of ranks that drive them all.

    After a rest a link lets up to ``burst_nbytes`` pass at once, and saves them up again at its own
    rate: the token bucket by which clouds and traffic shapers keep to a rate. Source: A. Uta et al.,
    "Is big data performance reproducible in modern cloud networks?", NSDI 2020.

    Inside a node ``window`` is what a rank takes to add up as much of another one's window of shared
    memory while that one does the same, and ``barrier_s`` a barrier of two. ``windows`` and
    ``barriers_s`` are the same among more ranks, by their number, as far as they were measured.
    """

    message: Curve
    allreduce: Curve
    allreduce_ranks: Range
    eager_limit_nbytes: NonNegative | None = None
    from_device: bool = False
    lanes: Annotated[int, Field(ge=1)] = 1
    burst_nbytes: NonNegative = 0.0
    window: Curve | None = None
    barrier_s: NonNegative | None = None
    windows: dict[RankCount, Curve] = Field(default_factory=dict)
    barriers_s: dict[RankCount, NonNegative] = Field(default_factory=dict)


class CopyDirection(StrEnum):
    """Which way a copy between the host's memory and a GPU's goes."""

    TO_DEVICE = "to_device"
    TO_HOST = "to_host"


class Storage(Section):
    """What a checkpoint costs: ``fixed_s + s_per_byte * n`` for the n bytes that a node writes.

    The ranks of a node are taken to share one disk, whatever they write to.
    """

    source: str
    fixed_s: NonNegative
    s_per_byte: NonNegative
    nbytes: Range
    rel_sigma: NonNegative

    def time_s(self, nbytes: float) -> float:
        """Return the time to write ``nbytes``, in seconds."""
        return self.fixed_s + self.s_per_byte * nbytes


class Machine(Section):
    """One machine, or the parts of several put together.

    ``copies`` of pinned memory are what a GPU's messages need over links that do not begin at one.
    ``collectives`` are those that were measured for themselves. ``node_slowness`` says, by the number
    of a node, how many times longer it computes than the others.
    """

    format: Literal["stepcast-machine-1"]
    name: str
    description: str
    provenance: dict[str, str]
    compute: Compute | None = None
    copies: dict[CopyDirection, Curve] = Field(default_factory=dict)
    links: dict[Tier, Link] = Field(default_factory=dict)
    fabric: FabricModel | None = None
    storage: Storage | None = None
    collectives: dict[Operation, CollectiveModel] = Field(default_factory=dict)
    overlap_share: Share = 0.0
    node_slowness: dict[NodeNumber, Slowness] = Field(default_factory=dict)

    def kernel_model(self, kernel: Kernel) -> KernelModel:
        """Return what ``kernel`` costs.

        Raises:
            MachineError: it was not measured; the Machine may be older than the kernel.
        """
        if self.compute is None or kernel not in self.compute.kernels:
            raise MachineError(
                f"machine {self.name} has no cost for {kernel}; calibrate it again with "
                f"python -m calibration"
            )
        return self.compute.kernels[kernel]

    def combined_with(self, other: "Machine") -> "Machine":
        """Return this machine with the parts that it lacks taken from ``other``."""
        found = ((name, model.beside(self.links)) for name, model in other.collectives.items())
        beside = {name: model for name, model in found if model is not None}
        return self.model_copy(
            update={
                "name": f"{self.name}+{other.name}",
                "description": f"{self.description}; {other.description}",
                "provenance": {**other.provenance, **self.provenance},
                "compute": self.compute or other.compute,
                "copies": self.copies if self.compute else other.copies,
                "links": {**other.links, **self.links},
                "fabric": self.fabric or other.fabric,
                "storage": self.storage or other.storage,
                "node_slowness": self.node_slowness or other.node_slowness,
                "collectives": {**beside, **self.collectives},
                "overlap_share": self.overlap_share if self.links else other.overlap_share,
            }
        )


def read_machine(path: Path) -> Machine:
    """Return the Machine in the file ``path``.

    Raises:
        MachineError: no such file, not JSON, or not a Machine; the message names the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"machine file {path} cannot be read: {error}") from error
    try:
        return Machine.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"]) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise MachineError(
            f"machine file {path} is not valid: {where}: {first['msg']}{more}; "
            f"make a new one with python -m calibration"
        ) from error


def write_machine(machine: Machine, path: Path) -> None:
    """Write ``machine`` to ``path``, replacing what is there only once the new file is whole.

    Raises:
        MachineError: the file cannot be written.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(machine.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")  # fmt: skip
        unfinished.replace(path)
    except OSError as error:
        raise MachineError(f"machine file {path} cannot be written: {error}") from error
