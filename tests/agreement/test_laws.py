"""Laws of random programs on random machines and fabrics: what no simulation may break.

A whole program may well be faster on a worse machine: what comes later meets less (R. L. Graham,
"Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17 (1969) 416-429). So what is worse
is asked of single collectives, and one anomaly of a program is kept here for who doubts it.
"""

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.fabric import FabricKind, FabricModel, LinkSpeed
from calibration.machine import Curve, Machine
from exec.noise import parse_noise
from exec.plan.collectives import expand
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Algorithm,
    Collective,
    CollectiveKind,
    Compute,
    Kernel,
    Lane,
    Op,
    Receive,
    Scale,
    Send,
    Shape,
    Wait,
    lane_of,
)
from exec.program.peers import At, Part
from exec.program.program import Program, Role
from sim.costs import Costs
from sim.jitter import paces
from sim.network import Load
from sim.result import StepTimes
from sim.simulate import simulate
from tests.agreement.hand_made import BETA_S_PER_BYTE, compute, kernel_model, machine
from tests.agreement.readers import ROUND, SAME
from tests.exec.random_plans import Case, cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
RATE = 1.0 / BETA_S_PER_BYTE
EXPANDED = [each for each in Algorithm if each is not Algorithm.LIBRARY]
SIDES = {1: (1,), 2: (2,), 3: (3,), 4: (2, 2), 5: (5,), 6: (2, 3), 7: (7,), 8: (2, 4)}


@st.composite
def fabrics(draw: st.DrawFn, nodes: int) -> FabricModel:
    """Draw a star, a tree or a torus, some of whose links are slow."""
    slow = {
        f"node{node}": LinkSpeed(share=draw(st.sampled_from([0.25, 0.6])))
        for node in draw(st.sets(st.integers(0, nodes - 1), max_size=2))
    }
    hop_latency_s = draw(st.sampled_from([0.0, 2e-4]))
    return draw(st.sampled_from([
        FabricModel(links=slow),
        FabricModel(kind=FabricKind.TREE, racks=2, uplink_bytes_per_s=RATE * 0.75, links=slow, hop_latency_s=hop_latency_s),
        FabricModel(kind=FabricKind.TREE, nodes_per_rack=3, oversubscription=4.0, links=slow),
        FabricModel(kind=FabricKind.TORUS, dims=SIDES[nodes], links=slow, hop_latency_s=hop_latency_s),
    ]))  # fmt: skip


@st.composite
def settings_of(draw: st.DrawFn, ranks: int) -> Costs:
    """Draw a machine and a fabric for so many ranks: lanes, eager limits and slow ranks too."""
    per_node = draw(st.integers(1, 2))
    limit = draw(st.sampled_from([None, 100.0]))
    links = {
        tier: link.model_copy(update={"eager_limit_nbytes": limit, "lanes": lanes})
        for (tier, link), lanes in zip(ROUND.links.items(), (draw(st.sampled_from([1, 1, 2])), 1), strict=True)
    }  # fmt: skip
    fabric = draw(fabrics(-(-ranks // per_node)))
    slow = draw(st.dictionaries(st.integers(0, ranks - 1), st.sampled_from([1.5, 4.0]), max_size=2))
    on = machine(links=links, fabric=fabric)
    return Costs(on, Mesh(ranks), per_node, slowness=slow)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, Costs, bool]:
    """Draw an expanded step, what it costs, and whether lanes take turns."""
    case: Case = draw(cases())
    costs = draw(settings_of(case.mesh.world_size))
    return expand(case.program), replace(costs, mesh=case.mesh), draw(st.booleans())


def critical_path_s(program: Program, costs: Costs, *, one_lane: bool) -> float:
    """Return the longest chain of ops and messages, each message as if it met no other.

    Found op by op, as the trainer would: a third reader, that knows no events and no closed forms.
    """
    ops = {rank: list(program.ops(rank)) for rank in range(program.mesh.world_size)}
    lanes = [
        (rank, deque(each))
        for rank, own in ops.items()
        for each in ([own] if one_lane else [[op for op in own if lane_of(op) is lane] for lane in Lane])
    ]  # fmt: skip
    ended: dict[tuple[int, str], float] = {}
    mail: dict[tuple[int, int, int], deque[float]] = {}
    meetings: dict[tuple[Axis, int, str], dict[int, float]] = {}
    now = [0.0] * len(lanes)

    def do(place: int, rank: int, op: Op) -> bool:
        """Do ``op`` if it can be done yet."""
        held = program.role_of(rank).nbytes
        match op:
            case Compute():
                now[place] += costs.compute_s(op, held) * costs.slowness_of(rank)
                ended[rank, op.id] = now[place]
            case Accumulate(part) | Scale(part):
                now[place] += costs.accumulate_s(part.size, held)
            case Wait(_, id):
                if (rank, id) not in ended:
                    return False
                now[place] = max(now[place], ended[rank, id])
            case Send(id, part, peer, tag):
                nbytes = part.size * program.itemsize
                arrival_s = now[place] + sum(costs.alone(nbytes, rank, peer.rank))  # type: ignore[union-attr]
                mail.setdefault((rank, peer.rank, tag), deque()).append(arrival_s)  # type: ignore[union-attr]
                ended[rank, id] = arrival_s
            case Receive(id, _, peer, tag):
                waiting = mail.get((peer.rank, rank, tag))  # type: ignore[union-attr]
                if not waiting:
                    return False
                now[place] = max(now[place], waiting.popleft())
                ended[rank, id] = now[place]
            case Collective(id):
                group = program.mesh.group(rank, op.axis)
                met = meetings.setdefault((op.axis, group[0], id), {})
                met[rank] = now[place]
                if len(met) < len(group):
                    return False
                now[place] = max(met.values()) + costs.library_s(op, program.itemsize, rank)
                ended[rank, id] = now[place]
            case _:
                ended[rank, op.id] = now[place]  # type: ignore[union-attr]
        return True

    while any(each for _, each in lanes):
        before = sum(len(each) for _, each in lanes)
        for place, (rank, each) in enumerate(lanes):
            while each and do(place, rank, each[0]):
                each.popleft()
        assert sum(len(each) for _, each in lanes) < before
    return max(now)


@SETTINGS
@given(programs())
def test_no_program_is_faster_than_its_critical_path_or_the_shared_work(
    drawn: tuple[Program, Costs, bool],
) -> None:
    program, costs, one_lane = drawn
    times = simulate(program, costs, one_lane=one_lane)
    ranks = range(program.mesh.world_size)
    work_s = [
        sum(costs.compute_s(op, program.role_of(rank).nbytes) for op in program.ops(rank) if isinstance(op, Compute))
        * costs.slowness_of(rank)
        for rank in ranks
    ]  # fmt: skip
    assert sum(work_s) / len(work_s) <= times.step_time_s * (1 + SAME)
    assert max(work_s) == pytest.approx(times.compute_s, rel=SAME)
    assert critical_path_s(program, costs, one_lane=one_lane) <= times.step_time_s * (1 + SAME)


@SETTINGS
@given(programs())
def test_free_messages_leave_the_critical_path_of_compute(drawn: tuple[Program, Costs, bool]) -> None:  # fmt: skip
    program, costs, one_lane = drawn
    free = replace(costs, is_comm_free=True)
    times = simulate(program, free, one_lane=one_lane)
    expected_s = critical_path_s(program, free, one_lane=one_lane)
    assert times.step_time_s == pytest.approx(expected_s, rel=SAME)
    if program.mesh.pp == 1:
        assert times.step_time_s == pytest.approx(times.compute_s, rel=SAME)


def in_order(times: StepTimes) -> StepTimes:
    """Return ``times`` with the spans by rank, lane, time and name."""
    return replace(times, spans=tuple(sorted(times.spans, key=lambda s: (s.rank, s.lane, s.start_s, s.end_s, s.name))))  # fmt: skip


@SETTINGS
@given(programs())
def test_the_same_again_is_the_same_and_no_link_carries_more_than_it_can(
    drawn: tuple[Program, Costs, bool],
) -> None:
    program, costs, one_lane = drawn
    loads: list[Load] = []
    times = simulate(program, costs, one_lane=one_lane, keeps_spans=True, loads=loads)
    again = [
        simulate(program, replace(costs), one_lane=one_lane, keeps_spans=True) for _ in range(2)
    ]
    assert again[0] == again[1]
    # Who asks for loads sees every flow end; what ends at the same moment is then told in another order.
    assert in_order(again[0]) == in_order(times)
    assert all(load.bytes_per_s <= costs.capacity(load.link) * (1 + SAME) for load in loads)
    noise, ranks = parse_noise("lognormal:0.1"), program.mesh.world_size
    noisy = [
        simulate(program, costs, one_lane=one_lane, paces=paces(noise, 1, ranks, 4)[0], keeps_spans=True)
        for _ in range(2)
    ]  # fmt: skip
    assert noisy[0] == noisy[1]


def scaled(on: Machine, factor: float) -> Machine:
    """Return ``on`` with all times ``factor`` times as long."""

    def line(curve: Curve) -> Curve:
        return curve.model_copy(update={"segments": tuple(
            each.model_copy(update={"alpha_s": each.alpha_s * factor, "beta_s_per_byte": each.beta_s_per_byte * factor})
            for each in curve.segments
        )})  # fmt: skip

    links = {
        tier: link.model_copy(update={"message": line(link.message), "allreduce": line(link.allreduce)})
        for tier, link in on.links.items()
    }  # fmt: skip
    fabric = on.fabric
    if fabric is not None:
        uplink = fabric.uplink_bytes_per_s
        fabric = fabric.model_copy(update={
            "hop_latency_s": fabric.hop_latency_s * factor, "uplink_bytes_per_s": uplink and uplink / factor,
        })  # fmt: skip
    kernels = {kernel: kernel_model(kernel, 1e-3 * factor, 1e-6 * factor) for kernel in Kernel}
    return machine(compute=compute(kernels=kernels), links=links, fabric=fabric)


@settings(SETTINGS, max_examples=12)
@given(programs(), st.sampled_from([2.0**-20, 0.5, 8.0, 2.0**30]))
def test_scaling_all_times_by_a_power_of_two_scales_the_answer_to_the_bit(
    drawn: tuple[Program, Costs, bool], factor: float
) -> None:
    program, costs, one_lane = drawn
    other = Costs(scaled(costs.machine, factor), costs.mesh, costs.ranks_per_node, slowness=costs.slowness)  # fmt: skip
    one_s = simulate(program, costs, one_lane=one_lane).step_time_s
    assert simulate(program, other, one_lane=one_lane).step_time_s == factor * one_s


def collective(ranks: int, algorithm: Algorithm, elements: int, per_node: int) -> Program:
    """Return a program that is a single all-reduce."""
    op = Collective("sum", CollectiveKind.ALLREDUCE, Part("grad", 0, elements), Axis.DP, algorithm,
                    node_size=per_node)  # fmt: skip
    return expand(Program(Mesh(ranks), 8, (Role("all", range(ranks), range(1), range(1), (op,)),)))


def slower_links(on: Machine, alpha: float, beta: float) -> Machine:
    """Return ``on`` with other latencies, and all its links of another bandwidth."""
    found = scaled(on, 1.0)
    links = {}
    for tier, link in found.links.items():
        segments = tuple(
            each.model_copy(update={"alpha_s": each.alpha_s * alpha, "beta_s_per_byte": each.beta_s_per_byte * beta})
            for each in link.message.segments
        )  # fmt: skip
        curve = link.message.model_copy(update={"segments": segments})
        links[tier] = link.model_copy(update={"message": curve, "allreduce": curve})
    fabric = found.fabric
    assert fabric is not None
    uplink = fabric.uplink_bytes_per_s
    fabric = fabric.model_copy(update={"uplink_bytes_per_s": uplink and uplink / beta})
    return found.model_copy(update={"links": links, "fabric": fabric})


COLLECTIVES = [each for each in Algorithm if each is not Algorithm.SHARED_WINDOW]
"""A window of shared memory is no collective of messages."""


@settings(SETTINGS, max_examples=60)
@given(data=st.data(), ranks=st.integers(2, 8), algorithm=st.sampled_from(COLLECTIVES), elements=st.integers(1, 400))  # fmt: skip
def test_latency_and_half_the_bandwidth_never_make_a_collective_faster(
    data: st.DataObject, ranks: int, algorithm: Algorithm, elements: int
) -> None:
    costs = data.draw(settings_of(ranks))
    size = costs.ranks_per_node if ranks % costs.ranks_per_node == 0 else 1
    program = collective(ranks, algorithm, elements, size)
    on = costs.machine
    assert on.fabric is not None
    names = [f"node{node}" for node in range(costs.fabric.num_nodes)]
    halved = on.fabric.with_links({data.draw(st.sampled_from(names)): LinkSpeed(share=0.125)})
    worse = {
        "latency": slower_links(on, 3.0, 1.0), "bandwidth": slower_links(on, 1.0, 2.0),
        "one link": on.model_copy(update={"fabric": halved}),
    }  # fmt: skip
    one_s = simulate(program, costs, one_lane=True).step_time_s
    for name, other in worse.items():
        changed = Costs(other, costs.mesh, costs.ranks_per_node)
        assert one_s <= simulate(program, changed, one_lane=True).step_time_s * (1 + SAME), name


def test_a_program_may_be_faster_over_a_slower_link() -> None:
    # Two messages meet at the link of rank 2, which works on one of them for 101 ms and can wait for the
    # other. If that other one comes over a slow link, it leaves the first more of what they share.
    part, work = Part("grad", 0, 1000), Compute(Kernel.LINEAR, 0, 0, Shape(1, 1, 100_000), 0, 0)
    sent: tuple[Op, ...] = (Send("out", part, At(Axis.DP, 2), 1), Wait(Lane.COMM, "out"))
    taken: tuple[Op, ...] = (
        Receive("urgent", part, At(Axis.DP, 1), 1), work, Receive("other", part, At(Axis.DP, 0), 1),
    )  # fmt: skip
    roles = tuple(
        Role(f"rank{rank}", range(rank, rank + 1), range(1), range(1), ops)
        for rank, ops in enumerate((sent, sent, taken))
    )
    program = Program(Mesh(3), 8, roles)

    def step_s(share: float) -> float:
        fabric = FabricModel(links={"node0": LinkSpeed(share=share)})
        return simulate(program, Costs(machine(fabric=fabric), Mesh(3), 1), one_lane=True).step_time_s  # fmt: skip

    assert step_s(1.0) == pytest.approx(1e-3 + 16e-3 + 101e-3, rel=SAME)
    assert step_s(0.125) == pytest.approx(1e-3 + 8e-3 * 8 / 7 + 101e-3, rel=SAME)
