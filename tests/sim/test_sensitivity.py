"""What is worse never makes a step faster; what does nothing is named, and why."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.fabric import FabricKind, FabricModel, LinkSpeed
from calibration.find import find_machine
from calibration.machine import CopyDirection, Machine, Tier
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.forecast import Engine, forecast
from sim.knobs import Inputs, knobs
from sim.sensitivity import WORSE, Effect, sensitivity
from tests.agreement.hand_made import compute, curve, links, machine, storage
from tests.exec.random_plans import Case, cases, schemes

MACHINES = ("ethernet-cluster", "infiniband-cluster", "h100-node")


def effects(machine: str, workload: Workload, mesh: Mesh, ranks_per_node: int, options: PlanOptions = PlanOptions()) -> dict[str, Effect]:  # fmt: skip
    """Return the effects by knob."""
    found = sensitivity(find_machine(machine), workload, mesh, options, ranks_per_node)
    return {effect.knob: effect for effect in found}


def everything(fabric: FabricModel) -> Machine:
    """Return a machine that states all there is to state but copies, on ``fabric``."""
    found = {
        tier: link.model_copy(update={"eager_limit_nbytes": 400.0}) for tier, link in links().items()
    }  # fmt: skip
    found[Tier.NETWORK] = found[Tier.NETWORK].model_copy(update={"lanes": 2})
    return machine(
        compute=compute(noise_rel_sigma=0.02, step_overhead_s=1e-3, busy_slowdown=1.5, cores_per_node=4, memory_nbytes=1 << 26),
        links=found, storage=storage(), overlap_share=0.5, node_slowness={0: 1.5},
        fabric=fabric.with_links({"node1": LinkSpeed(share=0.5), "node2": LinkSpeed(bytes_per_s=4e5)}),
    )  # fmt: skip


TREES = {
    "uplink": FabricModel(
        kind=FabricKind.TREE, racks=2, uplink_bytes_per_s=5e5, hop_latency_s=1e-4
    ),
    "oversubscription": FabricModel(kind=FabricKind.TREE, racks=2, oversubscription=6.0),
    "torus": FabricModel(kind=FabricKind.TORUS, dims=(2, 2, 2), hop_latency_s=1e-4),
    "star": FabricModel(),
}
STATED = {name: everything(fabric) for name, fabric in TREES.items()}
GPU = machine(
    compute=find_machine("h100-node").compute,
    copies=dict.fromkeys(CopyDirection, curve((float(1 << 62), 1e-4, 1e-8))),
)
# Of these alone a tenth worse may cost more than a tenth: a message more waits, half of the lanes go.
ABRUPT = {"eager limit of tier node", "eager limit of tier network", "lanes of a node's link"}


@pytest.mark.parametrize("name", [*MACHINES, *STATED, "gpu"])
def test_every_knob_makes_any_plan_slower_or_says_why_it_does_nothing(name: str) -> None:
    on = STATED[name] if name in STATED else GPU if name == "gpu" else find_machine(name)
    slow = ((1, 3.0),)

    @settings(max_examples=5, deadline=None, derandomize=True)
    @given(st.one_of(cases(), schemes(range(2, 9), [Strategy.AVERAGING, Strategy.SERVER])), st.integers(1, 2))  # fmt: skip
    def keep(case: Case, per_node: int) -> None:
        found = sensitivity(on, case.workload, case.mesh, case.options, per_node,
                            slow=slow if case.mesh.world_size > 1 else (), checkpoint_every=5 if on.storage else None)  # fmt: skip
        assert len({each.knob for each in found}) == len(found)
        for effect in found:
            assert effect.ratio > 1 - 1e-9, (effect, case)
            assert effect.is_inert == bool(effect.why), (effect, case)
            # No knob alone can cost more than the tenth by which it is worse, but for the neighbours,
            # whose slow-down multiplies noise too.
            assert effect.ratio < WORSE**2 or effect.knob in ABRUPT, (effect, case)

    keep()


def acting(on: Machine, case: Case, per_node: int) -> set[str]:
    """Return the knobs that move the plan of ``case``.

    Where a rank is slow nobody waits for noise, so that one is slow on nodes of one rank only.
    """
    slow = ((1, 3.0),) if per_node == 1 else ()
    found = sensitivity(on, case.workload, case.mesh, case.options, per_node, slow=slow, checkpoint_every=5)  # fmt: skip
    return {effect.knob for effect in found if not effect.is_inert}


BURST = "burst of nodes' links after a rest"


def test_a_smaller_burst_is_slower_where_it_is_simulated() -> None:
    case = Case.of("64-64-64-64-64", 64, Mesh(1, 4), num_microbatches=8)
    on = machine()
    network = on.links[Tier.NETWORK].model_copy(update={"burst_nbytes": 1000.0})
    on = on.model_copy(update={"links": {**on.links, Tier.NETWORK: network}})
    (knob,) = (each for each in knobs(Inputs(on)) if each.name == BURST)
    assert knob.change is not None
    machines = (knob.change(Inputs(on)).machine, on)
    smaller_s, own_s = (
        forecast(each, case.workload, case.mesh, case.options, engine=Engine.SIMULATE).step_time_s
        for each in machines
    )
    assert smaller_s > own_s
    solved = sensitivity(on, case.workload, case.mesh, case.options, 1)
    assert "simulate" in next(each for each in solved if each.knob == BURST).why


def test_no_knob_is_dead_every_one_moves_some_plan() -> None:
    plain = Case.of("64-64-8", 64, Mesh(8))
    two_levels = Case.of("64-64-8", 64, Mesh(8), algorithm=Algorithm.HIERARCHICAL, ranks_per_node=2)
    overlapped = Case.of("64-64-64-8", 64, Mesh(8), overlap=True, bucket_nbytes=1)
    rings = Case.of("64-64-8", 64, Mesh(4, 1, 2), algorithm=Algorithm.RING)
    # Between stages messages of one sample, 368 bytes: a tenth less of the eager limit is below.
    stages = Case.of("46-46-46-46-46", 16, Mesh(2, 4), num_microbatches=8)
    # Each moves what none of the others does, and together they move all.
    moved = set.union(
        acting(STATED["oversubscription"], two_levels, 2),  # slow links, lanes, noise, compute
        acting(STATED["oversubscription"], rings, 1),  # the oversubscription itself
        acting(STATED["uplink"], two_levels, 1),  # the uplinks' bandwidth
        acting(STATED["torus"], overlapped, 1),  # hops, and what compute hides
        acting(STATED["torus"], stages, 1),  # the network's eager limit
        acting(STATED["star"], stages, 2),  # the node's eager limit
        acting(STATED["star"], plain, 2),  # the node's all-reduce
    )
    every = {knob.name for on in STATED.values() for knob in knobs(Inputs(on))}
    tested_apart = {
        "measured collectives",
        "copies between host and GPU",
        "memory of a node",
        BURST,
    }
    assert every - moved == tested_apart
    staged = sensitivity(GPU, plain.workload, Mesh(8), plain.options, 1)
    assert next(each for each in staged if each.knob.startswith("copies")).ratio > 1.001


def test_what_would_not_fit_into_a_tenth_less_memory_is_said() -> None:
    workload = Workload(parse_net("784-512-512-26"), 512, 8)
    (need,) = {forecast(machine(), workload, Mesh(dp=4)).memory_bytes}
    for room, is_fatal in ((1.05, True), (1.2, False)):
        on = machine(compute=compute(memory_nbytes=int(need * room)))
        found = sensitivity(on, workload, Mesh(dp=4), PlanOptions(), 1)
        memory = next(each for each in found if each.knob == "memory of a node")
        assert memory.is_fatal is is_fatal
        assert memory.is_inert is not is_fatal


def test_one_rank_does_not_lean_on_links() -> None:
    found = effects("ethernet-cluster", Workload(parse_net("128-100-26"), 64), Mesh(), 1)
    of_links = [effect for knob, effect in found.items() if "tier" in knob]
    assert of_links
    assert all(effect.is_inert for effect in of_links)
    assert found["latency of the message of tier network"].why == "one rank sends nothing"
    assert not found["time of matrix products and convolutions"].is_inert


def test_data_parallel_ranks_of_several_nodes_lean_on_the_network_s_all_reduce() -> None:
    found = effects("ethernet-cluster", Workload(parse_net("784-512-512-26"), 4096), Mesh(dp=16), 1)
    assert found["transfer time of the all-reduce of tier network"].ratio > 1.01
    assert found["latency of the message of tier network"].is_inert
    assert found["transfer time of the all-reduce of tier node"].is_inert


def test_the_largest_effect_comes_first() -> None:
    found = sensitivity(
        find_machine("ethernet-cluster"), Workload(parse_net("784-512-512-26"), 512), Mesh(dp=4),
        PlanOptions(), 1,
    )  # fmt: skip
    ratios = [effect.ratio for effect in found]
    assert ratios == sorted(ratios, reverse=True)


def test_a_slow_rank_counts_in_what_a_plan_leans_on() -> None:
    found = {}
    for slow in ((), ((1, 8.0),)):
        effects = sensitivity(
            find_machine("ethernet-cluster"), Workload(parse_net("784-512-512-26"), 512), Mesh(dp=4),
            PlanOptions(), 1, slow=slow,
        )  # fmt: skip
        found[slow] = {effect.knob: effect.ratio for effect in effects}
    even, uneven = found.values()
    knob = "time of matrix products and convolutions"
    assert uneven[knob] > even[knob] + 0.01
    knob = "transfer time of the all-reduce of tier network"
    assert uneven[knob] < even[knob]
