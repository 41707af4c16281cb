"""Laws of the simulator: physics, ports, and programs that are not training steps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.machine import Machine
from exec.errors import MachineError
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Acquire,
    Algorithm,
    Compute,
    Kernel,
    Lane,
    Op,
    Receive,
    Release,
    Send,
    Shape,
    Wait,
)
from exec.program.peers import AnyRank, At, Part, Peer
from exec.program.program import Program, Role
from exec.workload import Workload
from sim.costs import Costs
from sim.result import StepTimes
from sim.simulate import simulate
from sim.solve import solve
from tests.agreement.hand_made import (
    ALPHA_S,
    BETA_S_PER_BYTE,
    NODE_SHARE,
    compute,
    links,
    machine,
    machines,
)  # fmt: skip
from tests.agreement.readers import ROUND
from tests.exec.random_plans import Case, cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)
ELEMENTS, ITEMSIZE = 1000, 4
TRANSFER_S = BETA_S_PER_BYTE * ELEMENTS * ITEMSIZE  # 4 ms, after a latency of 1 ms
PART = Part("grad", 0, ELEMENTS)
SAME = 1e-9  # roundings only


def program(ranks: int, lists: dict[range, tuple[Op, ...]]) -> Program:
    """Return the program in which the ranks of each range do their ops."""
    roles = tuple(
        Role(f"from {span.start}", span, range(1), range(1), ops) for span, ops in lists.items()
    )
    return Program(Mesh(ranks), ITEMSIZE, roles)


def run(what: Program, on: Machine = ROUND, ranks_per_node: int = 1) -> StepTimes:
    return simulate(what, Costs(on, what.mesh, ranks_per_node), one_lane=False, keeps_spans=True)


def send(to: Peer) -> tuple[Op, ...]:
    return Send("out", PART, to, 1), Wait(Lane.COMM, "out")


def receive(source: Peer, name: str = "in") -> Receive:
    return Receive(name, PART, source, 1)


def step(case: Case, on: Machine) -> StepTimes:
    return run(expand(case.program), on)


@pytest.mark.parametrize("senders", [1, 2, 3, 7])
def test_ranks_that_send_to_one_rank_take_turns_at_its_port(senders: int) -> None:
    sink = tuple(receive(AnyRank(), f"in{i}") for i in range(senders))
    what = program(senders + 1, {range(1): sink, range(1, senders + 1): send(At(Axis.DP, 0))})
    # Latencies pass side by side, transfers one after another.
    assert run(what).step_time_s == pytest.approx(ALPHA_S + senders * TRANSFER_S, rel=SAME)


@pytest.mark.parametrize("receivers", [1, 2, 5])
def test_a_rank_that_sends_to_many_takes_turns_at_its_own_port(receivers: int) -> None:
    out = tuple(Send(f"out{i}", PART, At(Axis.DP, i + 1), 1) for i in range(receivers))
    waits = tuple(Wait(Lane.COMM, f"out{i}") for i in range(receivers))
    what = program(
        receivers + 1, {range(1): out + waits, range(1, receivers + 1): (receive(At(Axis.DP, 0)),)}
    )
    assert run(what).step_time_s == pytest.approx(ALPHA_S + receivers * TRANSFER_S, rel=SAME)


def pairs() -> Program:
    """Ranks 0 and 1 send to 2 and 3."""
    return program(4, {
        range(1): send(At(Axis.DP, 2)), range(1, 2): send(At(Axis.DP, 3)),
        range(2, 3): (receive(At(Axis.DP, 0)),), range(3, 4): (receive(At(Axis.DP, 1)),),
    })  # fmt: skip


@pytest.mark.parametrize("ranks_per_node, expected_s", [
    (1, ALPHA_S + TRANSFER_S),  # every rank has a port
    (2, ALPHA_S + 2 * TRANSFER_S),  # both messages leave through one node's port
    (4, NODE_SHARE * (ALPHA_S + TRANSFER_S)),  # inside a node, every rank has a port again
])  # fmt: skip
def test_ranks_of_a_node_share_its_port_to_the_network_only(
    ranks_per_node: int, expected_s: float
) -> None:
    assert run(pairs(), ranks_per_node=ranks_per_node).step_time_s == pytest.approx(
        expected_s, rel=SAME
    )


def test_two_ranks_send_to_each_other_at_once() -> None:
    swap = {
        range(i, i + 1): (*send(At(Axis.DP, 1 - i)), receive(At(Axis.DP, 1 - i))) for i in range(2)
    }
    assert run(program(2, swap)).step_time_s == pytest.approx(ALPHA_S + TRANSFER_S, rel=SAME)


def test_messages_of_one_pair_arrive_in_the_order_of_sending() -> None:
    long, short = Part("grad", 0, 1000), Part("grad", 0, 10)
    first = (Send("long", long, At(Axis.DP, 1), 1), Send("short", short, At(Axis.DP, 1), 1))
    both = (Receive("a", long, At(Axis.DP, 0), 1), Receive("b", short, At(Axis.DP, 0), 1))
    waits = (Wait(Lane.COMM, "long"), Wait(Lane.COMM, "short"))
    spans = run(program(2, {range(1): first + waits, range(1, 2): both})).spans
    ends = {span.name: span.end_s for span in spans if span.rank == 1}
    assert ends["recv a"] == pytest.approx(ALPHA_S + TRANSFER_S, rel=SAME)
    assert ends["recv b"] == pytest.approx(ALPHA_S + TRANSFER_S + BETA_S_PER_BYTE * 40, rel=SAME)


def test_a_lane_may_wait_for_what_the_other_has_not_yet_sent() -> None:
    late = (Receive("go", PART, At(Axis.DP, 1), 2), Send("out", PART, At(Axis.DP, 1), 1))
    there = (Send("go", PART, At(Axis.DP, 0), 2), receive(At(Axis.DP, 0)))
    what = program(2, {range(1): (*late, Wait(Lane.COMPUTE, "out")), range(1, 2): there})
    spans = run(what).spans
    waits = [(span.start_s, span.end_s) for span in spans if span.lane is Lane.COMPUTE]
    assert waits == [(0.0, pytest.approx(2 * (ALPHA_S + TRANSFER_S), rel=SAME))]


def test_a_receive_from_any_takes_whoever_comes_first() -> None:
    # Rank 1 sends 1000 numbers and rank 2 sends 10, both to rank 0, whose first receive has no name.
    lists = {
        range(1): (receive(AnyRank(), "first"), receive(AnyRank(), "second")),
        range(1, 2): (receive(At(Axis.DP, 2), "late"), *send(At(Axis.DP, 0))),
        range(2, 3): (
            *send(At(Axis.DP, 0)),
            Send("go", PART, At(Axis.DP, 1), 1),
            Wait(Lane.COMM, "go"),
        ),
    }
    spans = run(program(3, lists)).spans
    ends = {span.name: span.end_s for span in spans}
    one_s = ALPHA_S + TRANSFER_S
    assert ends["recv first"] == pytest.approx(one_s, rel=SAME)
    assert ends["recv second"] == pytest.approx(3 * one_s, rel=SAME)


def test_a_receive_from_any_rank_has_no_closed_form() -> None:
    what = program(2, {range(1): (receive(AnyRank()),), range(1, 2): send(At(Axis.DP, 0))})
    with pytest.raises(ValueError, match="no closed form"):
        solve(what, Costs(ROUND, what.mesh, 1), one_lane=False)


DEADLOCKS = {
    "nobody sends": {range(1): (receive(At(Axis.DP, 1)),), range(1, 2): ()},
    "both receive first": {
        range(i, i + 1): (receive(At(Axis.DP, 1 - i)), *send(At(Axis.DP, 1 - i))) for i in range(2)
    },
    "a wait for nothing": {range(2): (Wait(Lane.COMPUTE, "never"),)},
}


@pytest.mark.parametrize("reader", [simulate, solve])
@pytest.mark.parametrize("lists", DEADLOCKS.values(), ids=DEADLOCKS.keys())
@pytest.mark.parametrize("one_lane", [False, True])
def test_a_program_that_deadlocks_has_no_time(
    lists: dict[range, tuple[Op, ...]], reader: type, one_lane: bool
) -> None:
    what = program(2, lists)
    with pytest.raises(ValueError, match="deadlocks"):
        reader(what, Costs(ROUND, what.mesh, 1), one_lane=one_lane)


@SETTINGS
@given(case=cases(), on=machines())
def test_the_same_input_gives_the_same_spans(case: Case, on: Machine) -> None:
    assert step(case, on) == step(case, on)


@SETTINGS
@given(case=cases(), on=machines())
def test_spans_of_a_lane_do_not_overlap_and_end_with_the_step(case: Case, on: Machine) -> None:
    times = step(case, on)
    lanes: dict[object, float] = {}
    for span in sorted(times.spans, key=lambda span: span.start_s):
        assert span.duration_s > 0
        assert span.start_s >= lanes.get((span.rank, span.lane), 0.0)
        lanes[span.rank, span.lane] = span.end_s
    assert max(lanes.values(), default=0.0) <= times.step_time_s
    assert times.compute_s <= times.step_time_s * (1 + SAME)


@SETTINGS
@given(case=cases(), thousand=st.sampled_from([1e-3, 1e3]))
def test_scaling_every_cost_scales_the_step(case: Case, thousand: float) -> None:
    slow = machine(
        compute=compute(1e-3 * thousand, 1e-6 * thousand),
        links=links(1e-3 * thousand, 1e-6 * thousand),
    )
    expected_s = thousand * step(case, ROUND).step_time_s
    assert step(case, slow).step_time_s == pytest.approx(expected_s, rel=SAME)


@SETTINGS
@given(case=cases())
def test_no_plan_on_p_ranks_is_more_than_p_times_as_fast(case: Case) -> None:
    # This machine has costs per op and per element only: no caches, so nothing gets faster per
    # element when a rank holds less.
    alone_s = run(plan_step(case.workload, Mesh())).step_time_s
    assert alone_s <= case.mesh.world_size * step(case, ROUND).step_time_s * (1 + SAME)


@SETTINGS
@given(
    case=cases(),
    faster=st.sampled_from([(0.5, 1.0), (1.0, 0.5), (0.1, 0.1), (0.0, 1.0), (1.0, 0.0)]),
)
def test_better_links_never_make_a_plan_slower(case: Case, faster: tuple[float, float]) -> None:
    # Of an expanded collective this is no law: which of two messages is first at a port may change
    # (R. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17 (1969) 416-429).
    plain = replace(case.options, algorithm=Algorithm.LIBRARY)
    better = machine(links=links(faster[0] * ALPHA_S, faster[1] * BETA_S_PER_BYTE))
    what = plan_step(case.workload, case.mesh, plain)
    assert run(what, better).step_time_s <= run(what, ROUND).step_time_s * (1 + SAME)
    assert solve(what, Costs(better, case.mesh, 1), one_lane=False).step_time_s <= (
        solve(what, Costs(ROUND, case.mesh, 1), one_lane=False).step_time_s * (1 + SAME)
    )


def test_a_link_that_is_missing_is_named() -> None:
    lonely = machine(links={})
    with pytest.raises(MachineError, match="no link between nodes; measure it"):
        run(pairs(), lonely)
    with pytest.raises(MachineError, match="no link between the ranks of a node; measure it"):
        run(pairs(), lonely, ranks_per_node=4)


def test_a_simulated_program_must_be_expanded() -> None:
    options = PlanOptions(algorithm=Algorithm.RING)
    with pytest.raises(ValueError, match="expanded"):
        run(plan_step(Workload(mlp(4, 4), 8), Mesh(4), options))


def work(elements: int) -> Compute:
    """Return an op that takes 1 ms, and 1 us an element."""
    return Compute(Kernel.LINEAR, 0, 0, Shape(1, 1, elements), 0, 0)


@pytest.mark.parametrize("first", [1, 2])
def test_ranks_that_go_on_at_one_moment_do_so_in_the_order_in_which_they_began(first: int) -> None:
    # Both send after 4 ms: one has worked for 4 ms, the other twice for 2 ms, so that it began later.
    second = 3 - first
    ops = {first: (work(3000),), second: (work(1000), work(1000))}
    sizes = {1: Part("grad", 0, 1000), 2: Part("grad", 0, 10)}
    ranks: dict[range, tuple[Op, ...]] = {
        range(i, i + 1): (*ops[i], Send("out", sizes[i], At(Axis.DP, 0), 1), Wait(Lane.COMM, "out"))
        for i in (1, 2)
    }  # fmt: skip
    what = program(3, {range(1): (receive(AnyRank(), "in"), receive(AnyRank(), "rest")), **ranks})
    times = simulate(what, Costs(ROUND, what.mesh, 1), one_lane=True, keeps_spans=True)
    ends = {(span.rank, span.name): span.end_s for span in times.spans}
    assert ends[0, "recv in"] == ends[first, "wait out"]


def test_works_that_follow_each_other_have_spans_of_their_own() -> None:
    what = program(1, {range(1): (work(1000), work(0), work(3000))})
    spans = [(span.start_s, span.end_s) for span in run(what).spans]
    assert spans == [pytest.approx(each) for each in ((0.0, 2e-3), (2e-3, 3e-3), (3e-3, 7e-3))]
    paced = simulate(what, Costs(ROUND, what.mesh, 1), one_lane=False, keeps_spans=True, paces=np.array([[2.0]]))  # fmt: skip
    assert paced.compute_s == paced.step_time_s == paced.spans[-1].end_s == pytest.approx(14e-3)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_lock_is_held_by_one_rank_at_a_time(ranks: int) -> None:
    held = (Acquire("lock"), work(1000), Release("lock"))
    what = program(ranks, {range(ranks): held})
    times = simulate(what, Costs(ROUND, what.mesh, 1), one_lane=True)
    assert times.step_time_s == pytest.approx(ranks * 2e-3, rel=SAME)
