"""The probe of shared windows: the executor's own sum of another rank's window, and its barrier.

How fast one rank adds depends on how many do: they share the memory's bandwidth. So two are
measured, then twice as many, up to all the ranks of the node that have cores of their own.
"""

import statistics
from dataclasses import replace

from calibration.machine import Tier
from calibration.probe import PASSES, Progress, bind_ops, idle, repeat_together
from calibration.samples import MessageSample
from exec.plan.window import slice_of
from exec.program.mesh import Axis
from exec.program.ops import Accumulate, Collective, CollectiveKind, Op
from exec.program.peers import Part, Shift
from exec.program.timeline import Span
from exec.runtime.report import is_oversubscribed
from exec.transport.protocol import Transport

_ELEMENTS = (128, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20, 1 << 22)
_MOST_ELEMENTS = 2 * _ELEMENTS[-1]  # of a window, however many ranks share it
NUM_WINDOWS = len(_ELEMENTS) + 1
_LEAST_TURNS, _MOST_TURNS = 9, 400
_BYTES_PER_TURN_S = 4e9  # about what a rank adds in a second, to share the time among sizes


def counts_of(ranks: int) -> list[int]:
    """Return how many of a node's ``ranks`` are measured together, one after the other.

    >>> counts_of(6)
    [2, 4, 6]
    """
    powers = [1 << i for i in range(1, ranks.bit_length()) if 1 << i < ranks]
    return [*powers, ranks] if ranks > 1 else []


def probe_node(node: Transport, seconds: float, progress: Progress) -> list[MessageSample]:
    """Return samples of 2, 4, ... and all ranks of ``node`` that have cores of their own.

    Two are measured in any case. All ranks of the node must call it together; rank 0 gets them.
    """
    found: list[MessageSample] = []
    for count in counts_of(node.size):
        group = node.split(int(node.rank < count))
        if node.rank < count and (count == 2 or not is_oversubscribed(group)):
            found += probe_windows(group, seconds, progress)
        idle(node)
        group.close()
    return found


def probe_windows(group: Transport, seconds: float, progress: Progress) -> list[MessageSample]:
    """Return sums of several sizes, and barriers, of the ranks of ``group``, all on one node.

    There are none if they have not the memory in common. All must call it together.
    """
    ranks = group.size
    if group.shareable_nbytes() < 2 * ranks * 4 * _MOST_ELEMENTS:
        return []
    barrier = Collective("met", CollectiveKind.BARRIER, Part("grad", 0, 0), Axis.DP)
    alone, _ = bind_ops(group, (barrier,), elements=1)
    sharing = group.split(0)
    found: list[MessageSample] = []
    for elements in _ELEMENTS * PASSES:
        if (whole := ranks * elements) > max(_MOST_ELEMENTS, ranks * _ELEMENTS[0]):
            continue
        progress(f"sum of {4 * elements} bytes of a window that {ranks} ranks share")
        part = slice_of("grad", whole, ranks)
        again = replace(barrier, id="again")
        ops: tuple[Op, ...] = (barrier, Accumulate(part, part, Shift(Axis.DP, 1)), again)
        shared = {"grad": dict(enumerate(sharing.share(whole, "float32")))}
        step, _ = bind_ops(group, ops, elements=whole, shared=shared)
        each_s = 4 * elements / _BYTES_PER_TURN_S
        turns = max(_LEAST_TURNS, min(_MOST_TURNS, int(seconds / PASSES / each_s)))
        spans: list[Span] = []
        for _ in range(turns):
            shared["grad"][group.rank].fill(1.0)  # as a backward pass does: others have it no more
            step.run_timed(spans)
        sums_s = [span.duration_s for span in spans if span.name == "accumulate"]
        found.append(_sample("window", ranks, 4 * elements, statistics.median(sums_s)))
    group.gather_objects(None)
    sharing.close()
    for _ in range(PASSES):
        times_s = repeat_together(group, alone, seconds / PASSES)
        found.append(_sample("barrier", ranks, 0, statistics.median(times_s)))
    return found


def _sample(kind: str, ranks: int, nbytes: int, time_s: float) -> MessageSample:
    return MessageSample(kind=kind, tier=Tier.NODE, ranks=ranks, nbytes=nbytes, time_s=time_s)  # type: ignore[arg-type]  # one of the kinds
