"""Laws of the choices: all plans that fit, no other, and the best of them."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.fabric import FabricKind, FabricModel, LinkSpeed
from calibration.machine import Machine, Tier
from exec.errors import UsageError
from exec.network.modules import Linear
from exec.network.network import mlp
from exec.network.parse import parse_net
from exec.plan.layout import check_mesh
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.stages import stage_nodes
from exec.plan.strategy import SYNCHRONOUS, Strategy, strategy_of
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.balance import calibrated
from sim.choices import Choice, best, choices, factorisations, node_counts
from sim.costs import Costs
from sim.fastest import fastest
from sim.forecast import solved_step_s
from sim.least import Least
from tests.agreement.hand_made import compute, links, machine, machines
from tests.exec.random_plans import Case, all_cases, cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=15)


@pytest.mark.parametrize("ranks", [*range(1, 37), 64])
def test_factorisations_are_all_and_only_the_meshes_of_so_many_ranks(ranks: int) -> None:
    every = itertools.product(range(1, ranks + 1), repeat=2)
    expected = {Mesh(dp, pp, ranks // (dp * pp)) for dp, pp in every if ranks % (dp * pp) == 0}
    found = list(factorisations(ranks))
    assert len(found) == len(set(found))
    assert set(found) == expected


@given(most=st.integers(1, 1 << 24))
@SETTINGS
def test_node_counts_are_the_powers_of_two_and_the_last(most: int) -> None:
    counts = node_counts(most)
    assert counts == sorted({*(1 << i for i in range(25) if 1 << i <= most), most})


@SETTINGS
@given(
    ranks=st.integers(1, 24), batch=st.integers(1, 40), widths=st.lists(st.integers(2, 12), min_size=2, max_size=5),
    microbatches=st.sampled_from([None, 1, 2, 3]),
)  # fmt: skip
def test_every_choice_fits_and_every_mesh_that_fits_is_a_choice(
    ranks: int, batch: int, widths: list[int], microbatches: int | None
) -> None:
    workload = Workload(mlp(*widths), batch)
    found = choices(ranks, workload, list(SYNCHRONOUS), None, microbatches)
    chosen = {choice.mesh for each in found.values() for choice in each}
    for strategy, each in found.items():
        assert all(strategy_of(choice.mesh) is strategy for choice in each)
        for choice in each:
            for count in choice.microbatches:
                check_mesh(workload, choice.mesh, PlanOptions(count))  # raises unless it fits
    for mesh in factorisations(ranks):
        if fits(workload, mesh, microbatches or 1):
            assert mesh in chosen


def fits(workload: Workload, mesh: Mesh, microbatches: int) -> bool:
    try:
        check_mesh(workload, mesh, PlanOptions(microbatches))
    except UsageError:
        return False
    return True


def test_only_the_wanted_strategies_and_the_fixed_mesh_are_choices() -> None:
    workload = Workload(mlp(8, 8, 8), 64)
    assert set(choices(8, workload, [Strategy.DATA], None, None)) == {Strategy.DATA}
    assert choices(8, workload, list(SYNCHRONOUS), Mesh(2, 2, 2), 4) == {
        Strategy.HYBRID: [Choice(Mesh(2, 2, 2), (4,))]
    }


def test_krizhevsky_s_meshes_are_those_whose_dense_layers_split() -> None:
    workload = Workload(parse_net("cnn"), 64)  # ten classes, so tp is at most ten
    found = choices(16, workload, [Strategy.KRIZHEVSKY], None, None)
    assert {choice.mesh for choice in found[Strategy.KRIZHEVSKY]} == {Mesh(8, 1, 2), Mesh(4, 1, 4), Mesh(2, 1, 8)}  # fmt: skip
    assert choices(16, Workload(mlp(8, 8, 8), 64), [Strategy.KRIZHEVSKY], None, None) == {}


def test_meshes_that_lie_unevenly_over_nodes_are_no_choices_for_a_hierarchical_allreduce() -> None:
    workload = Workload(mlp(8, 8, 8), 64)
    options = PlanOptions(algorithm=Algorithm.HIERARCHICAL, ranks_per_node=4)
    found = choices(12, workload, list(Strategy), None, 1, options)
    meshes = {choice.mesh for each in found.values() for choice in each}
    assert Mesh(12) in meshes
    assert Mesh(3, 1, 4) in meshes
    assert Mesh(4, 1, 3) not in meshes  # shards 3 of 4 ranks, then 1
    every = choices(12, workload, list(Strategy), None, 1)
    assert meshes < {choice.mesh for each in every.values() for choice in each}


WORKLOAD = Workload(mlp(24, 16, 32, 8), 96, 8)


@SETTINGS
@given(on=machines(), ranks=st.sampled_from([2, 4, 6, 8]), schedule=st.sampled_from(Schedule))
def test_best_is_that_of_trying_everything(on: Machine, ranks: int, schedule: Schedule) -> None:
    options = PlanOptions(schedule=schedule)

    def step_s(mesh: Mesh, tried: PlanOptions) -> float:
        return solved_step_s(on, WORKLOAD, mesh, tried, 1)

    for meshes in choices(ranks, WORKLOAD, list(SYNCHRONOUS), None, None).values():
        every = [
            step_s(choice.mesh, replace(options, num_microbatches=count))
            for choice in meshes
            for count in choice.microbatches
        ]
        least = Least(Costs(on, meshes[0].mesh, 1), WORKLOAD)
        plain, bounded = (
            best(options, meshes, step_s),
            best(options, meshes, step_s, least.step_s, least.cut_step_s),
        )
        assert plain == bounded
        assert step_s(*bounded) == min(every)


@settings(SETTINGS, max_examples=60)
@given(case=all_cases(), on=machines(), ranks_per_node=st.integers(1, 3))
def test_no_step_is_shorter_than_the_least(case: Case, on: Machine, ranks_per_node: int) -> None:
    options = replace(case.options, algorithm=Algorithm.LIBRARY)
    least = Least(Costs(on, case.mesh, ranks_per_node), case.workload)
    cut = calibrated(least.costs, case.workload, options)
    for tried in (options, cut):
        found_s = solved_step_s(on, case.workload, case.mesh, tried, ranks_per_node)
        assert least.step_s(case.mesh, tried) <= found_s * (1 + 1e-9)
        assert least.cut_step_s(case.mesh, tried) <= found_s * (1 + 1e-9)


@st.composite
def unlike(draw: st.DrawFn, ranks: int) -> tuple[Machine, int, tuple[tuple[int, float], ...]]:
    """Draw a machine of unequal nodes and links, the ranks on a node, and ranks that are slow."""
    on, per_node = draw(machines()), draw(st.integers(1, 3))
    link = on.links[Tier.NETWORK].model_copy(update={"lanes": draw(st.integers(1, 3))})
    nodes = -(-ranks // per_node)
    wire = link.message.wire_s_per_byte
    is_timed = wire > 1e-12
    rate = link.lanes / wire if is_timed else 1.0
    # Faster ones too: what shares a link that is better than the others takes less than by the curve.
    speeds = [
        LinkSpeed(share=0.3),
        LinkSpeed(bytes_per_s=rate * 5),
        LinkSpeed(bytes_per_s=rate / 9),
    ]
    told = draw(st.dictionaries(st.integers(0, nodes - 1), st.sampled_from(speeds), max_size=2))
    named = {f"node{node}": speed for node, speed in told.items()}
    fabric = draw(st.sampled_from([
        FabricModel(links=named),
        FabricModel(kind=FabricKind.TREE, racks=2, oversubscription=3.0, links=named, hop_latency_s=1e-4),
        FabricModel(kind=FabricKind.TREE, nodes_per_rack=2, uplink_bytes_per_s=rate * 4, links=named),
        FabricModel(kind=FabricKind.TORUS, dims=(2, -(-nodes // 2)), links=named),
    ]))  # fmt: skip
    slow = draw(st.dictionaries(st.integers(0, ranks - 1), st.sampled_from([1.5, 6.0]), max_size=2))
    slow_nodes = {} if slow else {nodes - 1: draw(st.sampled_from([1.0, 4.0]))}
    on = on.model_copy(update={
        "links": {**on.links, Tier.NETWORK: link}, "fabric": fabric if is_timed else None,
        "node_slowness": slow_nodes,
    })  # fmt: skip
    return on, per_node, tuple(slow.items())


@settings(SETTINGS, max_examples=60)
@given(data=st.data())
def test_no_step_is_shorter_than_the_least_on_unequal_nodes_and_links(data: st.DataObject) -> None:
    case = data.draw(cases())
    on, per_node, slow = data.draw(unlike(case.mesh.world_size))
    options = replace(case.options, algorithm=data.draw(st.sampled_from([Algorithm.LIBRARY, Algorithm.RING])))  # fmt: skip
    least = Least(Costs(on, case.mesh, per_node, slowness=dict(slow)), case.workload)
    cut = calibrated(least.costs, case.workload, options)
    for tried in (options, cut):
        found_s = solved_step_s(on, case.workload, case.mesh, tried, per_node, slow=slow)
        assert least.step_s(case.mesh, tried) <= found_s * (1 + 1e-9)
        assert least.cut_step_s(case.mesh, tried) <= found_s * (1 + 1e-9)


@settings(SETTINGS, max_examples=5)
@given(data=st.data(), ranks=st.sampled_from([4, 6]))
def test_the_fastest_of_unequal_ranks_is_that_of_trying_everything(
    data: st.DataObject, ranks: int
) -> None:
    on, per_node, slow = data.draw(unlike(ranks))
    for strategy, meshes in choices(ranks, WORKLOAD, list(SYNCHRONOUS), None, None).items():
        found = fastest(on, WORKLOAD, PlanOptions(), meshes, per_node, slow=slow)
        assert found is not None
        every = {}
        for mesh, count in ((each.mesh, count) for each in meshes for count in each.microbatches):
            costs = Costs(on, mesh, per_node, slowness=dict(slow))
            cut = calibrated(costs, WORKLOAD, PlanOptions(count))
            every[mesh, cut] = solved_step_s(on, WORKLOAD, mesh, cut, per_node, slow=slow)
        assert every[found] == min(every.values()), strategy


def test_where_a_slow_rank_stands_decides_the_plan() -> None:
    # Stages are cut to the slow rank's pace, replicas are not: of equal ranks a pipeline loses.
    workload, meshes = Workload(mlp(*[400] * 9), 64, 8), [Choice(Mesh(4), (1,)), Choice(Mesh(1, 4), (32,))]  # fmt: skip
    on = machine(compute=compute(fixed_s=1e-6), links=links(1e-6, 1e-10))
    even, slow = (fastest(on, workload, PlanOptions(), meshes, 1, slow=each) for each in ((), ((3, 8.0),)))  # fmt: skip
    assert even is not None
    assert slow is not None
    assert even[0] == Mesh(4)
    assert slow[0] == Mesh(1, 4)
    last = stage_nodes(workload.network, 4, slow[1].stages)[3]
    assert len([n for n in last if isinstance(workload.network.nodes[n].module, Linear)]) == 1
    first = fastest(on, workload, PlanOptions(), meshes, 1, slow=((0, 8.0),))
    assert first is not None
    assert first[1].stages != slow[1].stages


def test_a_node_s_slowness_is_that_of_its_ranks_unless_they_are_told_apart() -> None:
    options, workload = PlanOptions(strategy=Strategy.DATA), Workload(mlp(20, 10), 64, 8)

    def step_s(nodes: dict[int, float], *slow: tuple[int, float]) -> float:
        on = machine(node_slowness=nodes)
        return solved_step_s(on, workload, Mesh(4), options, 2, slow=slow)

    assert step_s({1: 3.0}) == step_s({}, (2, 3.0), (3, 3.0)) == step_s({1: 5.0}, (2, 3.0), (3, 1.0))  # fmt: skip
    assert step_s({1: 3.0}) > 1.5 * step_s({})
    assert step_s({7: 3.0}) == step_s({})


@given(times=st.lists(st.integers(1, 50), min_size=1, max_size=6))
@SETTINGS
def test_best_finds_the_minimum_of_what_falls_and_then_rises(times: list[int]) -> None:
    lowest = times.index(min(times))
    valley = [*sorted(times[:lowest], reverse=True), min(times), *sorted(times[lowest + 1 :])]
    counts = tuple(range(1, len(valley) + 1))
    found = best(
        PlanOptions(), [Choice(Mesh(), counts)], lambda _, tried: valley[tried.num_microbatches - 1]
    )
    assert found is not None
    _, options = found
    assert valley[options.num_microbatches - 1] == min(valley)


def test_nothing_is_best_of_plans_that_do_not_fit() -> None:
    meshes = [Choice(Mesh(2), (1, 2)), Choice(Mesh(1, 2), (1,))]
    assert best(PlanOptions(), meshes, lambda mesh, tried: math.inf) is None
    assert best(PlanOptions(), [], lambda mesh, tried: 1.0) is None
