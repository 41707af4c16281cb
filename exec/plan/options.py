"""How a mesh is used: what a plan may choose beside the mesh itself."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.plan.schedule import Schedule
from exec.plan.strategy import Strategy
from exec.program.ops import Algorithm


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How a mesh is used.

    Gradients are all-reduced in buckets of whole layers of at least ``bucket_nbytes``; with
    ``overlap`` each as soon as the backward pass has filled it, else all at the end.
    ``average_every`` is how many steps ranks take between two averages of their weights, 0 for a
    whole epoch; ``servers`` how many ranks serve parameters. Ranks that take tickets meet after
    every ``pause_every`` batches' worth of them, 0 for once an epoch: a checkpoint needs a moment
    when no gradient is under way. ``stages`` are the first nodes of all pipeline stages but the
    first; without any, stages are balanced by flops. With ``sync_batchnorm`` replicas share the
    statistics of each batch, else each normalises by its own. ``device`` says where a rank's arrays
    are, and so how they are laid out. Where the ranks of a node share memory algorithm hierarchical
    uses it, unless ``shares_memory`` says that they do not.
    """

    num_microbatches: int = 1
    schedule: Schedule = Schedule.ONE_F_ONE_B
    bucket_nbytes: int = 4 << 20
    overlap: bool = False
    algorithm: Algorithm = Algorithm.LIBRARY
    strategy: Strategy = Strategy.HYBRID
    average_every: int = 1
    servers: int = 1
    ranks_per_node: int = 1
    pause_every: int = 0
    stages: tuple[int, ...] = ()
    sync_batchnorm: bool = False
    device: DeviceKind = DeviceKind.CPU
    shares_memory: bool = True

    @property
    def is_exchanged(self) -> bool:
        """Whether convolutions split the batch, and dense layers exchange it and split themselves."""
        return self.strategy is Strategy.KRIZHEVSKY


def parse_every(text: str) -> int:
    """Return the steps between two averages that ``text`` spells, 0 for a whole epoch.

    >>> parse_every("16"), parse_every("epoch")
    (16, 0)
    """
    if text == "epoch":
        return 0
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"average-every must be a whole number of at least 1, or epoch, got {text!r}")  # fmt: skip
    return int(text)


def parse_slow(texts: Sequence[str], ranks: int) -> tuple[tuple[int, float], ...]:
    """Return ``(rank, factor)`` of each text, such as ``1=2.5``.

    >>> parse_slow(["1=2.5"], 2)
    ((1, 2.5),)
    """
    found: dict[int, float] = {}
    for text in texts:
        match = re.fullmatch(r"(\d+)=(\d+(?:\.\d+)?)", text)
        if match is None:
            raise UsageError(f"slow must be a rank and a factor, such as 1=2.5, got {text!r}")
        rank, factor = int(match[1]), float(match[2])
        if rank >= ranks or rank in found:
            raise UsageError(f"slow must name ranks 0 .. {ranks - 1}, each once, got {text!r}")
        if factor < 1:
            raise UsageError(f"slow must have a factor of at least 1, got {text!r}")
        found[rank] = factor
    return tuple(sorted(found.items()))
