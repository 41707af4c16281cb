"""The array engine: a program's times for all ranks at once, and for many draws of the noise.

What it answers is what :func:`sim.simulate.simulate` does, message by message; where it cannot
tell, it raises. Roles are expanded, but ranks never listed: each op is done once for all ranks of a
role, and a step of a ring is an addition and a maximum over its ranks.
"""

from dataclasses import dataclass

import numpy as np

from exec.plan.collectives import expand
from exec.program.ops import Repeat, Wait
from exec.program.program import Program, Role
from sim.arrays.irregular import IrregularError
from sim.arrays.links import check_meetings
from sim.arrays.pieces import Floats, Layout, Piece
from sim.arrays.play import Part, Play
from sim.costs import Costs
from sim.result import StepTimes


@dataclass(frozen=True, slots=True)
class ArrayTimes:
    """The time of a step and the most compute of a rank in it, of each replica."""

    step_times_s: Floats
    compute_times_s: Floats

    @property
    def first(self) -> StepTimes:
        """The times of the first replica."""
        return StepTimes(float(self.step_times_s[0]), float(self.compute_times_s[0]))


def simulate_arrays(program: Program, costs: Costs, *, one_lane: bool, paces: Floats | None = None) -> ArrayTimes:  # fmt: skip
    """Return the times of ``program``, its collectives expanded or not.

    With ``one_lane`` a rank does all its ops in the order of the program. ``paces`` say by how much
    ranks compute longer, (replicas, ranks, turns), as :func:`sim.jitter.paces` draws them.

    Raises:
        IrregularError: flows meet on a link, or ranks act in an order that only a run can tell.
    """
    _check(program, costs)
    expanded = expand(program)
    layout = Layout(expanded)
    try:
        return _play(expanded, costs, layout, paces, one_lane=one_lane, is_together=False)
    except IrregularError:
        if costs.ranks_per_node == 1 or len(layout.pieces) == 1:
            raise
    return _play(expanded, costs, layout, paces, one_lane=one_lane, is_together=True)


def _check(program: Program, costs: Costs) -> None:
    if costs.has_bursts:
        raise IrregularError("a link that has rested lets a burst pass")
    if any(role.until for role in program.roles):
        raise IrregularError("ranks take tickets in an order that only a run can tell")
    if not (costs.is_comm_free or costs.fabric.num_nodes == 1 or costs.is_plain):
        raise IrregularError("nodes are not joined by a star of equal links")


def _play(
    program: Program, costs: Costs, layout: Layout, paces: Floats | None, *, one_lane: bool,
    is_together: bool,
) -> ArrayTimes:  # fmt: skip
    play = Play(program, costs, layout, is_together=is_together)
    parts = [
        Part(piece, _pace(piece, costs, paces), _waited(piece.role)) for piece in layout.pieces
    ]
    step_times_s = play.play(parts, one_lane=one_lane)
    check_meetings(play.mail.flows, play.ways)
    num_replicas = 1 if paces is None else len(paces)
    compute_s = np.max(
        [
            np.broadcast_to(np.max(part.compute_s, axis=(1, 2, 3)), num_replicas)
            for part in parts
            if isinstance(part.compute_s, np.ndarray)
        ] or [np.zeros(num_replicas)], axis=0,
    )  # fmt: skip
    return ArrayTimes(np.broadcast_to(step_times_s, num_replicas), compute_s)


def _pace(piece: Piece, costs: Costs, paces: Floats | None) -> list[Floats]:
    """Return by how much the ranks of ``piece`` compute longer, in each turn."""
    slowness = np.ones((1, 1, 1, 1))
    if slow := costs.slow_ranks():
        factors = np.ones(costs.mesh.world_size)
        factors[slow] = [costs.slowness_of(rank) for rank in slow]
        slowness = factors[piece.ranks][None]
    if paces is None:
        return [slowness]
    return [slowness * paces[:, piece.ranks, turn] for turn in range(paces.shape[2])]


def _waited(role: Role) -> frozenset[str]:
    """Return the ids that the ops of ``role`` wait for."""
    ops = (inner for op in role.ops for inner in (op.body if isinstance(op, Repeat) else (op,)))
    return frozenset(op.id for op in ops if isinstance(op, Wait))
