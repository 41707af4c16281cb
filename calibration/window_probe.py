"""The probe of shared windows: the executor's own sum of another rank's window, and its barrier."""

import statistics
from dataclasses import replace

from calibration.machine import Tier
from calibration.probe import PASSES, Progress, bind_ops, repeat_together
from calibration.samples import MessageSample
from exec.plan.window import slice_of
from exec.program.mesh import Axis
from exec.program.ops import Accumulate, Collective, CollectiveKind, Op
from exec.program.peers import Part, Shift
from exec.program.timeline import Span
from exec.transport.protocol import Transport

_ELEMENTS = (128, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20, 1 << 22)
NUM_WINDOWS = len(_ELEMENTS) + 1
_LEAST_TURNS, _MOST_TURNS = 9, 400
_BYTES_PER_TURN_S = 4e9  # about what a rank adds in a second, to share the time among sizes


def probe_windows(pair: Transport, seconds: float, progress: Progress) -> list[MessageSample]:
    """Return sums of several sizes, and barriers, of the two ranks of ``pair`` on one node.

    There are none if they have not the memory in common. Both must call it together.
    """
    most = 2 * 2 * 4 * _ELEMENTS[-1]
    if pair.shareable_nbytes() < most:
        return []
    barrier = Collective("met", CollectiveKind.BARRIER, Part("grad", 0, 0), Axis.DP)
    alone, _ = bind_ops(pair, (barrier,), elements=1)
    group = pair.split(0)
    found: list[MessageSample] = []
    for elements in _ELEMENTS * PASSES:
        progress(f"sum of {4 * elements} bytes of a shared window")
        part = slice_of("grad", 2 * elements, 2)
        again = replace(barrier, id="again")
        ops: tuple[Op, ...] = (barrier, Accumulate(part, part, Shift(Axis.DP, 1)), again)
        shared = {"grad": dict(enumerate(group.share(2 * elements, "float32")))}
        step, _ = bind_ops(pair, ops, elements=2 * elements, shared=shared)
        each_s = 4 * elements / _BYTES_PER_TURN_S
        turns = max(_LEAST_TURNS, min(_MOST_TURNS, int(seconds / PASSES / each_s)))
        spans: list[Span] = []
        for _ in range(turns):
            shared["grad"][pair.rank].fill(1.0)  # as a backward pass does: the other has it no more
            step.run_timed(spans)
        sums_s = [span.duration_s for span in spans if span.name == "accumulate"]
        found.append(_sample("window", 4 * elements, statistics.median(sums_s)))
    pair.gather_objects(None)
    group.close()
    for _ in range(PASSES):
        times_s = repeat_together(pair, alone, seconds / PASSES)
        found.append(_sample("barrier", 0, statistics.median(times_s)))
    return found


def _sample(kind: str, nbytes: int, time_s: float) -> MessageSample:
    return MessageSample(kind=kind, tier=Tier.NODE, ranks=2, nbytes=nbytes, time_s=time_s)  # type: ignore[arg-type]  # one of the kinds
