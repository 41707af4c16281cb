"""The ops: frozen values that say what to do and how much, never arrays, handles or durations.

A rank has two lanes, and each does its ops in order. Compute ops, the lock around some of them
and what goes to the disk are on the compute lane; messages, collectives and the sums they need are on the
communication lane. One lane waits for another by ``Wait`` only. A ``Send`` is posted and its lane
goes on; every other op ends before the next of its lane begins.
"""

from dataclasses import dataclass
from enum import StrEnum

from exec.program.mesh import Axis
from exec.program.peers import Part, Peer


class Lane(StrEnum):
    """An in-order queue of a rank."""

    COMPUTE = "compute"
    COMM = "comm"


class Kernel(StrEnum):
    """A piece of computation whose time is a function of its shape."""

    LOAD = "load"
    LINEAR = "linear"
    CONV = "conv"
    BATCHNORM_SUMS = "batchnorm_sums"
    BATCHNORM = "batchnorm"
    RELU = "relu"
    SIGMOID = "sigmoid"
    MAXPOOL = "maxpool"
    AVGPOOL = "avgpool"
    ADD = "add"
    TRANSPOSE = "transpose"
    LOSS = "loss"
    TRANSPOSE_BACKWARD = "transpose_backward"
    ADD_BACKWARD = "add_backward"
    AVGPOOL_BACKWARD = "avgpool_backward"
    MAXPOOL_BACKWARD = "maxpool_backward"
    SIGMOID_BACKWARD = "sigmoid_backward"
    RELU_BACKWARD = "relu_backward"
    BATCHNORM_BACKWARD_SUMS = "batchnorm_backward_sums"
    BATCHNORM_BACKWARD = "batchnorm_backward"
    CONV_BACKWARD = "conv_backward"
    CONV_BACKWARD_FIRST = "conv_backward_first"
    LINEAR_BACKWARD = "linear_backward"
    LINEAR_BACKWARD_FIRST = "linear_backward_first"
    UPDATE = "update"
    ACCUMULATE = "accumulate"

    __hash__ = str.__hash__  # that of enumerations is slow, and a search asks for many prices


class CollectiveKind(StrEnum):
    """What a group does together."""

    ALLREDUCE = "allreduce"
    ALLGATHER = "allgather"
    REDUCE_SCATTER = "reduce_scatter"
    BROADCAST = "broadcast"
    REDUCE = "reduce"
    BARRIER = "barrier"


class Algorithm(StrEnum):
    """How a collective is done: by the library, or expanded into sends and receives.

    The names are those of R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective
    communication operations in MPICH", Int. J. High Perform. Comput. Appl. 19 (2005) 49-66;
    hierarchical is done inside nodes first, then between them. With shared_window the replicas of a
    node keep their gradients in memory that all of them read, and one set of weights: each adds
    up and updates a slice (:mod:`exec.plan.window`). So they do inside nodes with hierarchical, where
    they can.
    """

    LIBRARY = "library"
    RING = "ring"
    RECURSIVE_DOUBLING = "recursive_doubling"
    HALVING_DOUBLING = "halving_doubling"
    BINOMIAL_TREE = "binomial_tree"
    HIERARCHICAL = "hierarchical"
    SHARED_WINDOW = "shared_window"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a kernel works on: ``n`` samples, ``k`` inputs to each of ``m`` outputs (or elements).

    On images ``m`` are channels, each at ``p`` positions; they come from ``q`` positions of the
    input through a window of ``w``, all of whose channels ``k`` counts. A load has ``q`` positions
    if it turns images, which come samples first.
    """

    n: int
    k: int
    m: int
    p: int = 1
    q: int = 1
    w: int = 1

    def __str__(self) -> str:
        dense = f"{self.n}x{self.k}x{self.m}"
        image = (self.p, self.q, self.w)
        return dense if image == (1, 1, 1) else f"{dense}@{self.p}x{self.q}x{self.w}"


@dataclass(frozen=True, slots=True)
class Compute:
    """Run ``kernel`` of node ``layer`` on ``microbatch``; an update may be of ``part`` only."""

    kernel: Kernel
    layer: int
    microbatch: int
    shape: Shape
    flops: int
    nbytes: int
    part: Part | None = None

    @property
    def id(self) -> str:
        """The name by which a ``Wait`` refers to this op."""
        return f"{self.kernel}.{self.layer}.{self.microbatch}"


@dataclass(frozen=True, slots=True)
class Send:
    """Post ``part`` to ``peer``; a ``Wait`` for its id ends when the part may be overwritten.

    Of several sends with one id the ``Wait`` ends when all are done.
    """

    id: str
    part: Part
    peer: Peer
    tag: int


@dataclass(frozen=True, slots=True)
class Receive:
    """Receive into ``part`` from ``peer``."""

    id: str
    part: Part
    peer: Peer
    tag: int


@dataclass(frozen=True, slots=True)
class Accumulate:
    """Add ``source`` into ``into``, element by element.

    With ``peer`` the source is in that rank's window of shared memory.
    """

    into: Part
    source: Part
    peer: Peer | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Multiply ``part`` by ``numerator / denominator``: its share of a weighted mean."""

    part: Part
    numerator: int
    denominator: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Write the next ticket into ``part``, of one element, or -1 if there is none left."""

    part: Part


class Scope(StrEnum):
    """Which ranks along an axis do a collective together."""

    ALL = "all"
    INSIDE = "inside"
    BETWEEN = "between"


@dataclass(frozen=True, slots=True)
class Collective:
    """Do ``kind`` on ``part`` with all ranks along ``axis``, or those that ``scope`` says.

    An allgather's part is the whole result, of which each rank brings its own even share; a
    reduce_scatter's is the whole input, of which each rank keeps its share. ``root`` is a
    coordinate along ``axis``. Every ``node_size`` coordinates along ``axis`` are of one node: the
    hierarchical algorithm asks, and the scope. *Inside* each node does it for itself. *Between* nodes
    those do it that have equal places on theirs, each with its place's slice of the part only.
    """

    id: str
    kind: CollectiveKind
    part: Part
    axis: Axis
    algorithm: Algorithm = Algorithm.LIBRARY
    root: int = 0
    node_size: int = 1
    scope: Scope = Scope.ALL

    @property
    def block(self) -> int:
        """Into blocks of how many coordinates the axis is cut, each of which does it; 0 for none."""
        return self.node_size if self.scope is Scope.INSIDE else 0


@dataclass(frozen=True, slots=True)
class Mark:
    """Take no time; a ``Wait`` for this id ends when all before it on the lane is done."""

    id: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Hold ``lane`` until the op called ``id`` is done."""

    lane: Lane
    id: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """Do ``body`` ``count`` times on the communication lane; iteration ``k`` moves the peers."""

    count: int
    body: tuple["Op", ...]


@dataclass(frozen=True, slots=True)
class Acquire:
    """Wait until no other rank holds the lock ``name``, and hold it."""

    name: str


@dataclass(frozen=True, slots=True)
class Release:
    """Let go of the lock ``name``."""

    name: str


@dataclass(frozen=True, slots=True)
class Save:
    """Write ``nbytes`` to the disk: the parameters ``part``, and their velocities if there are any."""

    part: Part
    nbytes: int

    @property
    def id(self) -> str:
        """The name by which a ``Wait`` refers to this op."""
        return "save"


Op = (
    Compute
    | Send
    | Receive
    | Accumulate
    | Scale
    | Grant
    | Collective
    | Mark
    | Wait
    | Repeat
    | Acquire
    | Release
    | Save
)


def lane_of(op: Op) -> Lane:
    """Return the lane that does ``op``."""
    match op:
        case Compute() | Acquire() | Release() | Save():
            return Lane.COMPUTE
        case Wait(lane):
            return lane
        case _:
            return Lane.COMM
