"""The engine of lumps: a program's times by events, of one of each kind of ranks that cannot differ.

Ranks that do the same at the same time, over links that carry the same, are a lump, and simulated
as one; a ring among them is one message to oneself. Where they differ, by a chunk of another size
or a bias more, the lump is cut, and with it what depends on it, from then on and no earlier.
"""

import numpy as np

from exec.plan.collectives import expand
from exec.program.mesh import Axis
from exec.program.program import Program
from sim.arrays.irregular import IrregularError
from sim.arrays.pieces import Ints
from sim.costs import Costs
from sim.lumps.code import codes_of
from sim.lumps.play import Play
from sim.lumps.split import Partition, nodes_of
from sim.lumps.state import Lane, Lump
from sim.result import StepTimes


def simulate_lumps(program: Program, costs: Costs, *, one_lane: bool, most: int) -> tuple[StepTimes, int]:  # fmt: skip
    """Return the times of ``program``, its collectives expanded or not, and how many lumps there were.

    Raises:
        IrregularError: links or ranks are all unlike, or there are more than ``most`` lumps.
    """
    if costs.has_bursts:
        raise IrregularError("a link that has rested lets a burst pass")
    if any(role.until for role in program.roles):
        raise IrregularError("ranks take tickets in an order that only a run can tell")
    if costs.fabric.guests or not (costs.is_comm_free or costs.fabric.num_nodes == 1 or costs.is_plain):  # fmt: skip
        raise IrregularError("nodes are not joined by a star of equal links")
    expanded = expand(program)
    codes = codes_of(expanded, costs, one_lane=one_lane)
    code_of = _code_of(expanded)
    slowness = np.ones(program.mesh.world_size)
    for rank in costs.slow_ranks():
        slowness[rank] = costs.slowness_of(rank)
    num_lanes = np.array([len(code.lanes) for code in codes])[code_of]
    kinds = np.unique(np.stack([num_lanes, slowness]), axis=1, return_inverse=True)[1].reshape(-1)
    lumps = []
    for kind in range(int(kinds.max()) + 1):
        members = np.flatnonzero(kinds == kind)
        lump = Lump(members, (), float(slowness[members[0]]))
        lump.lanes = [Lane(lump, index) for index in range(num_lanes[members[0]])]
        lumps.append(lump)
    shares_nodes = costs.ranks_per_node > 1 and costs.fabric.num_nodes > 1
    partition = Partition(lumps, codes, code_of, nodes_of(costs) if shares_nodes else None)
    partition.cut(partition.closed({}))
    for lump in lumps:
        lump.codes = partition.codes_of(lump.members)
    if len(lumps) > most:
        raise IrregularError(f"more than {most} ranks differ")
    play = Play(expanded, costs, partition, most)
    step_s = play.play()
    compute_s = max(lump.compute_s for lump in partition.lumps)
    return StepTimes(step_s, compute_s), len(partition.lumps)


def _code_of(program: Program) -> Ints:
    """Return the number of each rank's role."""
    found = np.zeros((program.mesh.dp, program.mesh.pp, program.mesh.tp), np.intp)
    for number, role in enumerate(program.roles):
        found[np.ix_(*(np.asarray(role.span(axis), np.intp) for axis in Axis))] = number
    return found.reshape(-1)
