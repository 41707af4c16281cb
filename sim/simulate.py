"""Reader two: a program simulated by discrete events, one SimPy timeout for each moment.

A message waits out its latency, and then shares the links of its way with all others that are
there, max-min fairly (:mod:`sim.network`). The messages of one rank to another go one after the
other, as on one connection. Inside a node every rank has links of its own; between nodes the ranks
of a node share the node's. A message beyond the link's eager limit leaves when its receive has been
posted too. Where links have token buckets, what these hold passes at once.

SimPy is the clock, the order of events and the locks; what takes no time is a call. Roles are
bound to their costs once (:mod:`sim.bound_ops`); what ops do is :mod:`sim.world`.
"""

from exec.noise import Array
from exec.program.program import Program
from sim.bound_ops import bind
from sim.clock import SimPyClock
from sim.costs import Costs
from sim.network import Load, Network
from sim.ranks import Rank
from sim.result import StepTimes
from sim.world import World


def simulate(
    program: Program, costs: Costs, *, one_lane: bool, keeps_spans: bool = False,
    paces: Array | None = None, loads: list[Load] | None = None,
) -> StepTimes:  # fmt: skip
    """Return the times of ``program``, its collectives expanded or the library's.

    With ``one_lane`` a rank does all its ops in the order of the program, as where nothing
    moves during compute; else its two lanes are independent. ``paces`` say by rank and turn how many
    times longer a turn's compute takes, over and over if there are more turns. What each link
    carries over time is added to ``loads``, if given.
    """
    bursts = costs.burst_nbytes if costs.has_bursts else None
    network = Network(costs.capacity, bursts, keeps_loads=loads is not None)
    clock = SimPyClock()
    world = World(program, costs, clock, network, keeps_spans=keeps_spans)
    clock.wake = world.wake
    roles = {id(role): bind(program, role, costs, one_lane=one_lane) for role in program.roles}
    steps = {role: world.steps(bound) for role, bound in roles.items()}
    for number in range(program.mesh.world_size):
        role = id(program.role_of(number))
        own = _EVEN if paces is None else paces[number].tolist()
        rank = Rank(program, roles[role], number, costs.slowness_of(number), own)
        for lane, each in zip(rank.lanes, steps[role], strict=True):
            lane.do(world.play(lane, each))
        world.ranks.append(rank)
    for rank in world.ranks:
        for lane in rank.lanes:
            lane.go_on()
    clock.env.run()
    if not all(rank.is_over for rank in world.ranks):
        raise ValueError("the program deadlocks; check_program says where")
    if loads is not None and network.loads is not None:
        loads += network.loads
    compute_s = max((rank.compute_s for rank in world.ranks), default=0.0)
    return StepTimes(world.last_s, compute_s, tuple(world.spans), arrivals=tuple(world.arrivals))


_EVEN = [1.0]
