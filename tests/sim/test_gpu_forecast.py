"""Forecasts on GPUs: physical sense of the shipped H100 nodes, and how plans of GPUs are laid out."""

from dataclasses import replace

import pytest

from calibration import published
from calibration.find import find_machine
from calibration.machine import Machine
from exec.device.kind import DeviceKind
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm, Collective, CollectiveKind
from exec.program.peers import Part
from exec.workload import Workload
from sim.balance import calibrated
from sim.costs import Costs
from sim.engine import READERS
from sim.forecast import Forecast, forecast
from sim.memory import memory_nbytes
from sim.placement import placed

H100 = find_machine("h100-node")
CASES = [
    ("128-100-26", 1024), ("784-4096-4096-4096-26", 8192), ("resnet18", 2048), ("cnn", 4096),
]  # fmt: skip


def of(net: str, batch: int, nodes: int = 1, gpus: int = 1, **options: object) -> Forecast:
    mesh = Mesh(dp=nodes * gpus)
    workload = Workload(parse_net(net), batch)
    return forecast(H100, workload, mesh, PlanOptions(**options), ranks_per_node=gpus)  # type: ignore[arg-type]


def flops(workload: Workload) -> int:
    return workload.global_batch * sum(map(workload.node_flops, range(len(workload.network.nodes))))


@pytest.mark.parametrize("net, batch", CASES)
def test_no_step_is_faster_than_the_datasheet(net: str, batch: int) -> None:
    workload = Workload(parse_net(net), batch)
    for nodes, gpus in ((1, 1), (1, 8), (8, 8)):
        found = of(net, batch, nodes, gpus)
        share = flops(workload) / (nodes * gpus)
        assert found.breakdown.compute_s > 0.9 * share / published.H100_FLOPS_PER_S
    # Nor slower than a quarter of it, where there is enough to do.
    if flops(workload) > 1e12:
        assert of(net, batch).step_time_s < 4 * flops(workload) / published.H100_FLOPS_PER_S


@pytest.mark.parametrize("net, batch", CASES)
def test_more_samples_take_longer_and_more_nodes_compute_less_and_say_more(net: str, batch: int) -> None:  # fmt: skip
    by_batch = [of(net, size, 2, 8).step_time_s for size in (batch // 2, batch, 2 * batch, 4 * batch)]  # fmt: skip
    assert by_batch == sorted(by_batch)
    by_nodes = [of(net, batch, nodes, 8).breakdown for nodes in (1, 2, 4, 8)]
    compute = [each.compute_s for each in by_nodes]
    assert compute == sorted(compute, reverse=True)
    said = [each.exposed_comm_s for each in by_nodes]
    assert said == sorted(said)


def test_a_large_network_gains_from_every_node() -> None:
    steps = [of("resnet18", 2048, nodes, 8).step_time_s for nodes in (1, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True)
    assert of("resnet18", 2048, 8, 8).speedup_over(of("resnet18", 2048))[0] < 64


def test_overlap_hides_the_share_of_communication_that_is_said_to_overlap() -> None:
    plain = of("784-4096-4096-4096-26", 8192, 8, 8)
    hidden = of("784-4096-4096-4096-26", 8192, 8, 8, overlap=True, bucket_nbytes=4 << 20)
    assert 0 < hidden.breakdown.exposed_comm_s < plain.breakdown.exposed_comm_s


def test_a_hierarchical_allreduce_uses_both_tiers() -> None:
    plain, found, ring = (
        of("784-4096-4096-4096-26", 8192, 4, 8, ranks_per_node=8, algorithm=algorithm)
        for algorithm in (Algorithm.LIBRARY, Algorithm.HIERARCHICAL, Algorithm.RING)
    )
    # NCCL drives all NICs and both tiers at once; one ring crosses each node's border over one.
    assert plain.step_time_s < found.step_time_s < ring.step_time_s


def test_simulated_nodes_of_gpus_take_what_is_solved() -> None:
    for algorithm in (Algorithm.LIBRARY, Algorithm.RING, Algorithm.HIERARCHICAL):
        options = PlanOptions(algorithm=algorithm, ranks_per_node=4)
        workload = Workload(parse_net("784-512-512-32"), 1024)
        solved, simulated = (
            forecast(H100, workload, Mesh(dp=16), options, ranks_per_node=4, engine=engine).step_time_s
            for engine in READERS
        )  # fmt: skip
        assert simulated == pytest.approx(solved, rel=1e-9)


def test_two_tiers_at_once_take_less_than_one_after_the_other() -> None:
    op = Collective("", CollectiveKind.ALLREDUCE, Part("grad", 0, 1 << 24), Axis.DP)
    together = Costs(H100, Mesh(dp=16), 8).library_s(op, 4)
    inside = Costs(H100, Mesh(dp=8), 8).library_s(op, 4)
    hosts = {tier: link.model_copy(update={"from_device": False}) for tier, link in H100.links.items()}  # fmt: skip
    through_hosts = H100.model_copy(update={"links": hosts, "compute": find_machine("ethernet-cluster").compute})  # fmt: skip
    apart = Costs(through_hosts, Mesh(dp=16), 8).library_s(op, 4)
    assert inside < together < apart


def test_plans_are_laid_out_for_the_machine_s_device() -> None:
    workload = Workload(parse_net("cnn"), 64)
    found = forecast(H100, workload, Mesh())
    assert found.options.device is DeviceKind.GPU
    on_gpu = PlanOptions(device=DeviceKind.GPU)
    assert found.memory_bytes == memory_nbytes(plan_step(workload, Mesh(), on_gpu), on_gpu)
    assert found.memory_bytes != memory_nbytes(plan_step(workload, Mesh()), PlanOptions())
    mesh = Mesh(pp=2)
    assert calibrated(Costs(H100, mesh, 8), workload, PlanOptions()).device is DeviceKind.GPU
    cpu = find_machine("ethernet-cluster")
    assert placed(on_gpu, cpu).device is DeviceKind.CPU
    links_only = H100.model_copy(update={"compute": None})
    assert placed(PlanOptions(), links_only) == PlanOptions()


def test_more_ranks_than_gpus_share_them_and_say_so() -> None:
    workload = Workload(parse_net("784-512-512-26"), 1024)
    full = forecast(H100, workload, Mesh(dp=8), ranks_per_node=8)
    shared = forecast(H100, replace(workload, global_batch=2048), Mesh(dp=16), ranks_per_node=16)
    assert shared.breakdown.compute_s == pytest.approx(2 * full.breakdown.compute_s, rel=0.01)
    assert any("16 ranks on 8 GPUs" in flag for flag in shared.extrapolated)


def test_a_machine_of_gpus_survives_its_json() -> None:
    assert Machine.model_validate_json(H100.model_dump_json(exclude_none=True)) == H100
