"""The walk of :mod:`sim.solve` with arrays for times: all points of a family at once.

An array has a row for each share of the batch (where it does not divide, some replicas have one
sample more), one for each class of tp coordinates, and a column for each point. What waits, what
comes first and what is summed is the same for all of them; only the numbers differ. It is for
messages that leave at once, and ranks that compute equally fast.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from exec.program.mesh import Axis
from exec.program.ops import Collective, Compute, Lane, Receive, Send, Wait
from sim.grid_family import Turn

Times = NDArray[np.float64]
"""Seconds, by share of the batch, class of tp coordinates and point."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """What the turns of a stage take: an array for each that computes, each collective, each message."""

    computed: Sequence[Times]
    collectives: Sequence[Times]
    latencies: Sequence[Times]
    transfers: Sequence[Times]


@dataclass(slots=True)
class _State:
    ended: dict[tuple[int, str], Times] = field(default_factory=dict)  # by stage and id
    arrivals: dict[tuple[int, int, int], list[Times]] = field(
        default_factory=lambda: defaultdict(list)
    )  # by source, destination and tag
    free: dict[tuple[int, int], Times] = field(default_factory=dict)  # by source and destination
    has_moved: bool = False
    finish: list[Times] = field(default_factory=list)


def walk(stages: Sequence[Sequence[Turn]], times: Sequence[StageTimes], *, one_lane: bool) -> Times:
    """Return the time of a step, for each point.

    ``stages`` are the turns of each stage, ``times`` what they take; with ``one_lane`` a rank takes
    all its turns one after the other, else its two lanes are independent.
    """
    state = _State()
    lanes = []
    for stage, turns in enumerate(stages):
        if one_lane:
            lanes.append(_lane(state, stage, turns, times[stage]))
            continue
        for lane in Lane:
            own = [turn for turn in turns if turn.lane is lane]
            lanes.append(_lane(state, stage, own, times[stage]))
    while lanes:
        state.has_moved = False
        resting = [lane for lane in lanes if next(lane, _END) is not _END]
        if len(resting) == len(lanes) and not state.has_moved:
            raise ValueError("the program deadlocks; check_program says where")
        lanes = resting
    finish_s: Times = np.maximum.reduce(state.finish).max(axis=(0, 1))
    return finish_s


def computed_s(times: Sequence[StageTimes]) -> Times:
    """Return what the rank computes that computes most, for each point."""
    found_s: Times = np.maximum.reduce([np.sum(each.computed, axis=0) for each in times]).max(
        axis=(0, 1)
    )
    return found_s


def _lane(state: _State, stage: int, turns: Sequence[Turn], times: StageTimes) -> Iterator[None]:
    """Take ``turns``; yield wherever something is not known yet."""
    now = np.zeros_like(times.computed[0])
    taken: dict[tuple[int, int, int], int] = defaultdict(int)
    for turn in turns:
        if turn.kind is Compute:
            now = now + times.computed[turn.number]
        elif turn.kind is Wait:
            while (stage, turn.id) not in state.ended:
                yield
            now = np.maximum(now, state.ended[stage, turn.id])
        elif turn.kind is Collective:
            assert turn.op is not None
            together = 0 if turn.op.axis is Axis.DP else 1
            now = now.max(axis=together, keepdims=True) + times.collectives[turn.number]
        elif turn.kind is Send:
            way = stage, turn.other
            start = now + times.latencies[turn.number]
            if way in state.free:
                start = np.maximum(start, state.free[way])
            state.free[way] = end = start + times.transfers[turn.number]
            state.arrivals[*way, turn.tag].append(end)
            state.ended[stage, turn.id] = end
        elif turn.kind is Receive:
            come = turn.other, stage, turn.tag
            while len(state.arrivals[come]) <= taken[come]:
                yield
            now = np.maximum(now, state.arrivals[come][taken[come]])
            taken[come] += 1
        if turn.kind not in (Wait, Send) and turn.id:
            state.ended[stage, turn.id] = now
        state.has_moved = True
    state.finish.append(now)


_END = object()
