"""The simulator against SimGrid: the same platform and program, and the same time to 1e-9.

SimGrid shares links by its own solver and counts time by its own kernel; of ours it is given link
bandwidths, routes, message sizes and ops, and nothing that was computed from them.

Where the two differ by definition. A SimGrid message waits out its latency before its bandwidth is
shared, as ours does. But then CM02 shares a link in inverse proportion to the flows' latencies,
as TCP does with round-trip times: flows of latencies a and b on one link get b / (a + b) and
a / (a + b) of it. Ours get a half each. So either all latencies are equal and stand in SimGrid's
links, or messages sleep for theirs and go over links without; one test is of the difference itself.
MPI's order is not SimGrid's either: there two messages of one rank to another share; ours, and
those of the oracle, go one after the other as on one connection. And a rank's two lanes are two
hosts in SimGrid, or its sums would slow its compute down.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.fabric import FabricKind, FabricModel, LinkSpeed
from calibration.machine import Link, Machine, Tier
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import (
    Accumulate,
    Algorithm,
    Compute,
    Kernel,
    Lane,
    Mark,
    Op,
    Receive,
    Scale,
    Send,
    Shape,
    Wait,
    lane_of,
)
from exec.program.peers import Part, Rank
from exec.program.program import Program, Role
from exec.workload import Workload
from sim.choices import factorisations
from sim.costs import Costs
from sim.network import Transfer, completions_s
from sim.simulate import simulate
from tests.agreement.hand_made import EVERYTHING, compute, curve, kernel_model, machine
from tests.agreement.readers import SAME, even_widths

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)
ORACLE = Path(__file__).with_name("simgrid_oracle.py")
FLOPS_PER_S = 1e9
BYTES_PER_S = 131_072.0  # a power of two: what is left of a flow then rounds to nothing
_LAST_KNEE = float(1 << 62)


@dataclass(frozen=True, slots=True)
class Oracle:
    """A process that answers one description after the other."""

    process: subprocess.Popen[str]

    def ask(self, what: dict[str, Any]) -> float:
        """Return the time that SimGrid finds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    code = "from simgrid import NetZone; NetZone.create_full_zone"
    for python in (sys.executable, "/usr/bin/python3"):
        tried = subprocess.run([python, "-c", code], check=False, capture_output=True)
        if tried.returncode == 0:
            break
    else:
        pytest.skip("SimGrid's Python bindings are not installed (Debian: python3-simgrid 3.32)")
    with subprocess.Popen(
        [python, str(ORACLE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        yield Oracle(process)
        assert process.stdin is not None
        process.stdin.close()


def described(
    program: Program, costs: Costs, *, one_lane: bool, latency_in_links: bool = False
) -> dict[str, Any]:
    """Return ``program`` on ``costs`` as the oracle reads it."""
    links: dict[str, float] = {}
    routes: dict[str, dict[str, Any]] = {}

    def told(rank: int, op: Op) -> list[Any] | None:
        slowness = costs.slowness.get(rank, 1.0)
        held = program.role_of(rank).nbytes
        match op:
            case Compute(id=id):
                return ["compute", costs.compute_s(op, held) * FLOPS_PER_S]
            case Accumulate(part) | Scale(part):  # as long on a slow rank as on another
                return ["compute", costs.accumulate_s(part.size, held) * FLOPS_PER_S / slowness]
            case Wait(_, id):
                return ["wait", id]
            case Mark(id):
                return ["mark", id]
            case Receive(id, _, Rank(source), tag):
                return ["receive", id, source, tag]
            case Send(id, part, Rank(dest), tag):
                nbytes = part.size * program.itemsize
                transfer = costs.transfer(nbytes, rank, dest)
                assert transfer.nbytes == nbytes  # no message is faster than a large one here
                links.update((name, costs.capacity(name)) for name in transfer.route)
                routes[f"{rank}-{dest}"] = {
                    "links": transfer.route,
                    "latency_s": transfer.latency_s,
                }
                is_held = costs.waits_for_receive(nbytes, rank, dest)
                return ["send", id, dest, tag, nbytes, transfer.latency_s, transfer.bytes_per_s, is_held]  # fmt: skip
            case _:
                raise AssertionError(op)

    def lane(rank: int, ops: list[Op]) -> list[list[Any]]:
        found: list[list[Any]] = []
        for op in ops:
            found.append(told(rank, op) or [])
            if isinstance(op, Compute):
                found.append(["mark", op.id])
        return found

    ranks = []
    for rank in range(program.mesh.world_size):
        ops = list(program.ops(rank))
        lanes = [ops] if one_lane else [[op for op in ops if lane_of(op) is each] for each in Lane]
        ranks.append({"speed": FLOPS_PER_S / costs.slowness.get(rank, 1.0),
                      "lanes": [lane(rank, each) for each in lanes]})  # fmt: skip
    return {"ranks": ranks, "links": links, "routes": routes, "latency_in_links": latency_in_links}


def assert_same(
    oracle: Oracle, program: Program, costs: Costs, *, one_lane: bool, latency_in_links: bool = False
) -> None:  # fmt: skip
    ours_s = simulate(program, costs, one_lane=one_lane).step_time_s
    theirs_s = oracle.ask(
        described(program, costs, one_lane=one_lane, latency_in_links=latency_in_links)
    )
    assert ours_s == pytest.approx(theirs_s, rel=SAME)


@st.composite
def fabrics(draw: st.DrawFn, nodes: int) -> FabricModel:
    """Draw a star, a tree with oversubscribed or fast uplinks, or a torus; some links are slow."""
    kind = draw(st.sampled_from(FabricKind))
    slow = {
        f"node{node}": LinkSpeed(share=draw(st.sampled_from([0.125, 0.25, 0.75])))
        for node in draw(st.sets(st.integers(0, nodes - 1), max_size=2))
    }
    match kind:
        case FabricKind.STAR:
            return FabricModel(links=slow)
        case FabricKind.TREE:
            return FabricModel(
                kind=kind, racks=draw(st.integers(1, 3)), links=slow,
                uplink_bytes_per_s=BYTES_PER_S * draw(st.sampled_from([0.5, 1.0, 1.5])),
            )  # fmt: skip
        case FabricKind.TORUS:
            sides = {1: (1,), 2: (2,), 3: (3,), 4: (2, 2), 5: (5,), 6: (2, 3), 7: (7,), 8: (2, 4)}
            return FabricModel(kind=kind, dims=sides[nodes], links=slow)


@st.composite
def fabric_machines(draw: st.DrawFn, nodes: int, *, has_one_latency: bool = False) -> Machine:
    """Draw a machine on a fabric, its small messages slower a byte than large ones."""
    # No round numbers: which of two messages of a connection is first if the latencies of both end at
    # the same moment is for roundings to say.
    alpha_s = draw(st.sampled_from([1.0313e-3, 1.9717e-2]))
    beta = 1.0 / BYTES_PER_S
    line = curve((300.0, alpha_s, beta * draw(st.sampled_from([1.0, 2.5]))),
                 (_LAST_KNEE, alpha_s * (1.0 if has_one_latency else 1.73206), beta))  # fmt: skip
    near = curve((_LAST_KNEE, alpha_s * (1.0 if has_one_latency else 0.27183), beta / 4))
    limit = None if has_one_latency else draw(st.sampled_from([None, None, 500.0]))
    # A flow over links with latencies is not held to its own rate in SimGrid 3.32: no lanes there.
    lanes = 1 if has_one_latency else draw(st.sampled_from([1, 1, 3]))
    links = {
        Tier.NETWORK: Link(message=line, allreduce=line, allreduce_ranks=EVERYTHING, eager_limit_nbytes=limit, lanes=lanes),
        Tier.NODE: Link(message=near, allreduce=near, allreduce_ranks=EVERYTHING, eager_limit_nbytes=limit),
    }  # fmt: skip
    fabric = draw(fabrics(nodes))
    if not has_one_latency and fabric.kind is not FabricKind.STAR:
        fabric = fabric.model_copy(
            update={"hop_latency_s": draw(st.sampled_from([0.0, 2.9137e-3]))}
        )
    kernels = {kernel: kernel_model(kernel, 1e-3, draw(st.sampled_from([1e-5, 1e-4]))) for kernel in Kernel}  # fmt: skip
    return machine(compute=compute(kernels=kernels), links=links, fabric=fabric)


@st.composite
def slownesses(draw: st.DrawFn, ranks: int) -> dict[int, float]:
    """Draw which ranks compute how many times longer."""
    slow = draw(st.sets(st.integers(0, ranks - 1), max_size=2))
    return {rank: draw(st.sampled_from([1.5, 4.0])) for rank in slow}


@st.composite
def messages(draw: st.DrawFn, ranks: int) -> Program:
    """Draw messages between ranks, all in one order, and work before each of their ends."""
    lists: list[list[Op]] = [[] for _ in range(ranks)]
    pairs = st.tuples(st.integers(0, ranks - 1), st.integers(1, ranks - 1))
    for number, (source, ahead) in enumerate(draw(st.lists(pairs, min_size=3, max_size=20))):
        dest = (source + ahead) % ranks
        part = Part("grad", 0, draw(st.sampled_from([20, 100, 250, 1000])))
        for rank in draw(st.sets(st.sampled_from([source, dest]))):
            units = draw(st.sampled_from([10, 300]))
            lists[rank].append(Compute(Kernel.LINEAR, number, 0, Shape(1, 1, units), 0, 0))
        lists[source].append(Send(f"out{number}", part, Rank(dest), number))
        lists[dest].append(Receive(f"in{number}", part, Rank(source), number))
        # Else a held message would deadlock with one that waits for it.
        lists[source].append(Wait(Lane.COMM, f"out{number}"))
        if draw(st.booleans()):
            lists[source].pop()
    roles = tuple(
        Role(f"rank{rank}", range(rank, rank + 1), range(1), range(1), tuple(ops))
        for rank, ops in enumerate(lists)
    )
    return Program(Mesh(ranks), 4, roles)


@SETTINGS
@given(data=st.data())
def test_messages_that_meet_on_any_fabric_take_as_long_as_in_simgrid(
    oracle: Oracle, data: st.DataObject
) -> None:
    nodes, per_node = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2))
    ranks = max(2, nodes * per_node)
    program = data.draw(messages(ranks))
    on = data.draw(fabric_machines(-(-ranks // per_node)))
    costs = Costs(on, program.mesh, per_node, slowness=data.draw(slownesses(ranks)))
    assert_same(oracle, program, costs, one_lane=True)


@SETTINGS
@given(data=st.data())
def test_training_steps_with_expanded_collectives_take_as_long_as_in_simgrid(
    oracle: Oracle, data: st.DataObject
) -> None:
    ranks = data.draw(st.integers(2, 8))
    mesh = data.draw(st.sampled_from([mesh for mesh in factorisations(ranks) if mesh.pp <= 4]))
    algorithms = [each for each in Algorithm if each not in (Algorithm.LIBRARY, Algorithm.HIERARCHICAL)]  # fmt: skip
    options = PlanOptions(
        data.draw(st.integers(1, 3)), data.draw(st.sampled_from(Schedule)), 1,
        overlap=data.draw(st.booleans()), algorithm=data.draw(st.sampled_from(algorithms)),
    )  # fmt: skip
    widths = even_widths(mesh, max(2, mesh.pp))
    workload = Workload(mlp(*widths), 2 * mesh.dp * options.num_microbatches, 8)
    program = expand(plan_step(workload, mesh, options))
    on = data.draw(fabric_machines(ranks))
    costs = Costs(on, mesh, 1, slowness=data.draw(slownesses(ranks)))
    assert_same(oracle, program, costs, one_lane=data.draw(st.booleans()))


@settings(SETTINGS, max_examples=15)
@given(data=st.data())
def test_two_levels_over_shared_links_take_as_long_as_in_simgrid(
    oracle: Oracle, data: st.DataObject
) -> None:
    # All ranks of a node send over its link at once; messages may wait for their receives.
    nodes, size = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 3))
    mesh = Mesh(nodes * size)
    options = PlanOptions(
        algorithm=Algorithm.HIERARCHICAL, ranks_per_node=size, shares_memory=False
    )
    units = data.draw(st.integers(3, 60))  # parts of unequal size, too
    program = expand(plan_step(Workload(mlp(units, 7, 5), mesh.dp, 8), mesh, options))
    on = data.draw(fabric_machines(nodes))
    costs = Costs(on, mesh, size, slowness=data.draw(slownesses(mesh.dp)))
    assert_same(oracle, program, costs, one_lane=True)


@settings(SETTINGS, max_examples=15)
@given(data=st.data())
def test_pipelines_of_waiting_messages_take_as_long_as_in_simgrid(
    oracle: Oracle, data: st.DataObject
) -> None:
    mesh = Mesh(data.draw(st.integers(1, 2)), data.draw(st.integers(2, 4)))
    options = PlanOptions(data.draw(st.integers(1, 4)), data.draw(st.sampled_from(Schedule)), 1,
                          algorithm=Algorithm.RING)  # fmt: skip
    widths = data.draw(st.lists(st.integers(3, 40), min_size=5, max_size=5))
    workload = Workload(mlp(*widths), 2 * mesh.dp * options.num_microbatches, 8)
    program = expand(plan_step(workload, mesh, options))
    on = data.draw(fabric_machines(mesh.world_size))
    limited = {tier: link.model_copy(update={"eager_limit_nbytes": 300.0}) for tier, link in on.links.items()}  # fmt: skip
    costs = Costs(on.model_copy(update={"links": limited}), mesh, 1, slowness=data.draw(slownesses(mesh.world_size)))  # fmt: skip
    assert_same(oracle, program, costs, one_lane=data.draw(st.booleans()))


@SETTINGS
@given(data=st.data())
def test_equal_latencies_of_simgrids_own_links_change_nothing(
    oracle: Oracle, data: st.DataObject
) -> None:
    # In a ring every rank waits for its message before it sends the next one.
    ranks, per_node = data.draw(st.integers(2, 8)), data.draw(st.integers(1, 2))
    mesh, options = Mesh(ranks), PlanOptions(algorithm=Algorithm.RING)
    program = expand(plan_step(Workload(mlp(*even_widths(mesh, 2)), ranks, 8), mesh, options))
    on = data.draw(fabric_machines(-(-ranks // per_node), has_one_latency=True))
    costs = Costs(on, mesh, per_node, slowness=data.draw(slownesses(ranks)))
    assert_same(oracle, program, costs, one_lane=True, latency_in_links=True)


@pytest.mark.parametrize("a, b", [(1.0, 1.0), (1.0, 3.0), (0.5, 4.0)])
def test_unequal_latencies_weigh_in_simgrid_and_not_here(
    oracle: Oracle, a: float, b: float
) -> None:
    # Two flows of n bytes on a link of 1 byte/s, of latencies a < b. From b on the first has done b - a,
    # and then gets b / (a + b) of the link: it ends at b + (n - b + a) (a + b) / b, the other, since
    # the link is never idle after a, at a + 2 n. Ours: the first ends at b + 2 (n - b + a).
    n = 100
    what = {
        "links": {"wire": 1.0},
        "routes": {f"{i}-2": {"links": ["wire"], "latency_s": each} for i, each in enumerate((a, b))},
        "latency_in_links": True,
        "ranks": [
            *({"speed": 1.0, "lanes": [[["send", "out", 2, i, n, each, None, False]]]} for i, each in enumerate((a, b))),
            {"speed": 1.0, "lanes": [[["receive", "in", 0, 0]]]},
        ],
    }  # fmt: skip
    first_s = b + (n - (b - a)) * (a + b) / b
    assert oracle.ask(what) == pytest.approx(first_s, rel=SAME)
    flows = [(0.0, Transfer(("wire",), n, each)) for each in (a, b)]
    ours = completions_s(flows, lambda _: 1.0)
    assert ours == pytest.approx([b + 2 * (n - (b - a)), a + 2 * n], rel=SAME)
