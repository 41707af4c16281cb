"""Nodes whose link has several lanes: a message takes one at most, and those of a node share them all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.fabric import FabricKind, FabricModel, LinkSpeed
from calibration.find import find_machine
from calibration.machine import CopyDirection, Machine, Tier
from exec.errors import MachineError
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm, Collective, CollectiveKind
from exec.program.peers import Part
from exec.program.program import Program
from exec.workload import Workload
from sim.bounds import bounds
from sim.costs import Costs
from sim.simulate import simulate
from sim.solve import solve
from tests.agreement.hand_made import (
    ALPHA_S,
    BETA_S_PER_BYTE,
    curve,
    links,
    machine,
    machines,
)
from tests.agreement.readers import ROUND, SAME, even_widths

_EVER = float(1 << 62)


def with_lanes(lanes: int, fabric: FabricModel | None = None, on: Machine = ROUND) -> Machine:
    """Return ``on`` with so many lanes between its nodes."""
    network = on.links[Tier.NETWORK].model_copy(update={"lanes": lanes})
    return on.model_copy(update={"links": {**on.links, Tier.NETWORK: network}, "fabric": fabric})


def data_parallel(ranks: int, algorithm: Algorithm, node: int) -> Program:
    mesh = Mesh(ranks)
    options = PlanOptions(bucket_nbytes=1 << 30, algorithm=algorithm, ranks_per_node=node)
    return plan_step(Workload(mlp(*even_widths(mesh, 2)), ranks, 8), mesh, options)


def both_s(program: Program, costs: Costs) -> tuple[float, float]:
    """Return the solved and the simulated time."""
    solved = solve(program, costs, one_lane=True).step_time_s
    return solved, simulate(expand(program), costs, one_lane=True).step_time_s


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("node", [2, 4])
def test_messages_of_a_node_share_its_lanes_and_none_takes_more_than_one(
    node: int, lanes: int
) -> None:
    # Between nodes all ranks of a node send at once, 2 (N - 1) times.
    ranks, nodes = 4 * node, 4
    program = data_parallel(ranks, Algorithm.HIERARCHICAL, node)
    nbytes = 8 * program.roles[0].holds[0].size / ranks
    one_s, lanes_s = (both_s(program, Costs(with_lanes(each), program.mesh, node)) for each in (1, lanes))  # fmt: skip
    less_s = 2 * (nodes - 1) * BETA_S_PER_BYTE * nbytes * (node - max(1.0, node / lanes))
    for before_s, after_s in zip(one_s, lanes_s, strict=True):
        assert before_s - after_s == pytest.approx(less_s, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("algorithm", [Algorithm.RING, Algorithm.HALVING_DOUBLING, Algorithm.RECURSIVE_DOUBLING])  # fmt: skip
def test_every_algorithm_is_simulated_as_it_is_solved(algorithm: Algorithm, lanes: int) -> None:
    program = data_parallel(8, algorithm, 4)
    solved, simulated = both_s(program, Costs(with_lanes(lanes), program.mesh, 4))
    assert solved == pytest.approx(simulated, rel=SAME)


@pytest.mark.parametrize("lanes, times", [(1, 8.0), (2, 4.0), (8, 1.0), (16, 1.0)])
def test_racks_are_oversubscribed_by_all_lanes_of_their_nodes(lanes: int, times: float) -> None:
    # A ring takes an uplink one message at a time: of two nodes' lanes together a sixteenth.
    tree = FabricModel(kind=FabricKind.TREE, racks=2, oversubscription=16.0)
    program = data_parallel(4, Algorithm.RING, 1)
    nbytes = 2 * program.roles[0].holds[0].size
    plain, costs = (Costs(with_lanes(lanes, each), program.mesh, 1) for each in (None, tree))
    more_s = 6 * BETA_S_PER_BYTE * nbytes * (times - 1)
    for before_s, after_s in zip(both_s(program, plain), both_s(program, costs), strict=True):
        assert after_s - before_s == pytest.approx(more_s, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("node, share, times", [
    (1, 1.0, 4.0), (1, 0.5, 4.0), (1, 0.1, 10.0), (2, 1.0, 2.0), (2, 0.1, 10.0), (4, 1.0, 1.0), (8, 0.5, 2.0),
])  # fmt: skip
def test_a_library_s_all_reduce_takes_the_lanes_it_drives_or_what_the_slow_link_has(
    node: int, share: float, times: float
) -> None:
    # Its curve is of all four lanes; a node's ranks drive one each.
    nbytes = 1 << 20
    op = Collective("", CollectiveKind.ALLREDUCE, Part("grad", 0, nbytes // 4), Axis.DP)
    fabric = FabricModel(links={"node1": LinkSpeed(share=share)})
    costs = Costs(with_lanes(4, fabric), Mesh(2 * node), node)
    inside_s = Costs(ROUND, Mesh(node), node).library_s(op, 4)
    between_s = ALPHA_S + BETA_S_PER_BYTE * nbytes * times
    assert costs.library_s(op, 4, 0) == pytest.approx(inside_s + between_s, rel=1e-12)


def test_copies_of_a_gpu_s_message_come_before_it_flows_in_both_readers() -> None:
    line = curve((_EVER, 1e-4, 1e-8))
    gpu = find_machine("h100-node").compute
    on = machine(compute=gpu, copies=dict.fromkeys(CopyDirection, line))
    from_gpu = {tier: link.model_copy(update={"from_device": True}) for tier, link in links().items()}  # fmt: skip
    program = data_parallel(4, Algorithm.RING, 1)
    nbytes = 2 * program.roles[0].holds[0].size
    direct, staged = (
        both_s(program, Costs(each, program.mesh, 1))
        for each in (on.model_copy(update={"links": from_gpu}), on)
    )
    copies_s = 6 * 2 * (1e-4 + 1e-8 * nbytes)
    for before_s, after_s in zip(direct, staged, strict=True):
        assert after_s - before_s == pytest.approx(copies_s, rel=1e-8)
    with pytest.raises(MachineError, match="nothing of copies"):
        solve(program, Costs(machine(compute=gpu), program.mesh, 1), one_lane=True)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    on=machines(), workers=st.integers(1, 6), servers=st.integers(1, 3), lanes=st.integers(1, 4), node=st.integers(1, 4),
    limit=st.sampled_from([None, 0.0, 300.0]), kind=st.sampled_from([None, *FabricKind]), slow=st.sampled_from([1.0, 5.0]),
    shares_nodes=st.booleans(),
)  # fmt: skip
def test_servers_stay_inside_their_bounds_with_any_lanes_on_any_fabric(
    on: Machine, workers: int, servers: int, lanes: int, node: int, limit: float | None,
    kind: FabricKind | None, slow: float, shares_nodes: bool,
) -> None:  # fmt: skip
    mesh = Mesh(workers + servers)
    options = PlanOptions(strategy=Strategy.ASYNC_SERVER, servers=servers)
    program = plan_epoch(Workload(mlp(20, 10, 5), 4 * workers, 8), mesh, options, 40 * workers)[0].program  # fmt: skip
    wire = on.links[Tier.NETWORK].message.wire_s_per_byte
    fabric = None
    if kind is not None and wire > 1e-12:
        told = {"node0": LinkSpeed(share=0.4)}
        fabric = {
            FabricKind.STAR: FabricModel(links=told),
            FabricKind.TREE: FabricModel(kind=FabricKind.TREE, racks=2, oversubscription=3.0, links=told),
            FabricKind.TORUS: FabricModel(kind=FabricKind.TORUS, dims=(3, 3), links=told, hop_latency_s=1e-4),
        }[kind]  # fmt: skip
    limited = {
        tier: link.model_copy(update={"eager_limit_nbytes": limit, "lanes": lanes if tier is Tier.NETWORK else 1})
        for tier, link in on.links.items()
    }  # fmt: skip
    costs = Costs(on.model_copy(update={"links": limited, "fabric": fabric}), mesh, node,
                  slowness={workers + servers - 1: slow}, guests=servers if shares_nodes else 0)  # fmt: skip
    found, took_s = bounds(program, costs), simulate(program, costs, one_lane=True).step_time_s
    assert found.upper_s is not None
    assert found.step_time_s * (1 - SAME) <= took_s <= found.upper_s * (1 + SAME)
