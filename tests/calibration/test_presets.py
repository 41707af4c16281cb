"""The shipped Machines: what they are built from, and what they say about it."""

import json
import math

import pytest

from calibration import published
from calibration.assemble import assemble
from calibration.find import find_machine, shipped_machines
from calibration.machine import Curve, Machine, Tier, read_machine, write_machine
from calibration.presets import (
    MACHINES,
    MEASURED,
    OTHER_COUNTS_REL_SIGMA,
    ethernet_cluster,
    h100_node,
    infiniband_cluster,
    main,
    presets,
)
from calibration.published import Table
from exec.errors import MachineError
from exec.network.named import named_network
from exec.network.network import mlp
from exec.plan.step import plan_step
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Collective, CollectiveKind, Compute, Kernel
from exec.program.peers import Part
from exec.workload import Workload
from sim.collectives import library_allreduce_s
from sim.costs import Costs
from sim.placement import fits_memory
from tests.calibration.gpu_synthetic import PROVENANCE, SQUARE, rungs, samples_on

NAMES = ["ethernet-cluster", "h100-node", "infiniband-cluster"]
TWO_NODES_OF_TWO = Mesh(dp=4)
_COMPUTE = read_machine(MEASURED).compute
MEASURED_KERNELS = set(_COMPUTE.kernels if _COMPUTE else ())  # may be older than some kernels


@pytest.fixture(scope="module")
def built() -> dict[str, Machine]:
    return {machine.name: machine for machine in presets()}


def sources(machine: Machine) -> list[str]:
    assert machine.compute is not None
    curves = [c for link in machine.links.values() for c in (link.message, link.allreduce)]
    return [machine.compute.source, *(curve.source for curve in curves)]


def message_s(curve: Curve, nbytes: float) -> float:
    alpha_s, beta_s_per_byte = curve.at(nbytes)
    return alpha_s + beta_s_per_byte * nbytes


def message_ratios(curve: Curve, table: Table) -> list[float]:
    return [
        message_s(curve, nbytes) / time_s
        for nbytes, time_s in zip(table.sizes, table.times_s, strict=True)
    ]


def allreduce_ratios(curve: Curve, table: Table) -> list[float]:
    return [
        library_allreduce_s(nbytes, table.ranks, curve) / time_s
        for nbytes, time_s in zip(table.sizes, table.times_s, strict=True)
    ]


def root_mean_square_log(ratios: list[float]) -> float:
    return math.sqrt(sum(math.log(ratio) ** 2 for ratio in ratios) / len(ratios))


def test_the_shipped_machines_are_the_presets(built):
    assert list(shipped_machines()) == NAMES == sorted(built)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_machine_is_whole(name):
    machine = read_machine(MACHINES / f"{name}.json")
    assert machine.name == name
    assert machine.compute is not None
    measured = dict.fromkeys(("ethernet-cluster", "infiniband-cluster"), MEASURED_KERNELS)
    assert set(machine.compute.kernels) == measured.get(name, set(Kernel))
    assert set(machine.links) == set(Tier)
    assert "by us" in machine.description


@pytest.mark.parametrize("name", NAMES)
def test_every_section_of_a_shipped_machine_names_a_public_source(name):
    for source in sources(find_machine(name)):
        assert any(each in source for each in ("GitHub ", "measured by Stepcast", "NVIDIA H100 "))
        assert "shared" not in source
        assert "/work" not in source
        assert "/tmp" not in source


@pytest.mark.parametrize("name", NAMES)
def test_nobody_edits_a_shipped_machine_by_hand(name, built):
    shipped = read_machine(MACHINES / f"{name}.json").model_dump(mode="json")
    # Least squares may end in other last digits with another BLAS.
    assert_alike(shipped, built[name].model_dump(mode="json"))


def assert_alike(shipped: object, built: object) -> None:
    if isinstance(built, dict) and isinstance(shipped, dict):
        assert shipped.keys() == built.keys()
        for key in built:
            assert_alike(shipped[key], built[key])
    elif isinstance(built, list) and isinstance(shipped, list):
        assert len(shipped) == len(built)
        for one, other in zip(shipped, built, strict=True):
            assert_alike(one, other)
    elif isinstance(built, float):
        assert shipped == pytest.approx(built, rel=1e-6, abs=1e-18)
    else:
        assert shipped == built


def test_main_writes_all_presets(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("calibration.presets.MACHINES", tmp_path)
    main()
    written = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*")}
    assert sorted(written) == NAMES
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "ethernet-cluster", "infiniband-cluster", "h100-node",
    ]  # fmt: skip


# The tolerance of each is the largest error of the fit, rounded up: TCP has steps at 64 bytes and
# at its rendezvous limit that no line follows.
@pytest.mark.parametrize(
    "build, table, tolerance",
    [
        (ethernet_cluster, published.ETHERNET_MESSAGE, 0.35),
        (infiniband_cluster, published.INFINIBAND_MESSAGE, 0.07),
    ],
)
def test_messages_take_what_was_published(build, table, tolerance):
    curve = build().links[Tier.NETWORK].message
    assert message_ratios(curve, table) == pytest.approx([1.0] * len(table.sizes), rel=tolerance)
    slower = Table(table.source, table.ranks, {n: 2 * us for n, us in table.times_us.items()})
    assert max(abs(ratio - 1.0) for ratio in message_ratios(curve, slower)) > tolerance


@pytest.mark.parametrize(
    "build, tier, table, tolerance",
    [
        (ethernet_cluster, Tier.NETWORK, published.ETHERNET_ALLREDUCE[8], 0.30),
        (infiniband_cluster, Tier.NETWORK, published.INFINIBAND_ALLREDUCE[16], 0.16),
        (h100_node, Tier.NODE, published.NVLINK_ALLREDUCE, 0.16),
    ],
)
def test_allreduces_take_what_was_published(build, tier, table, tolerance):
    curve = build().links[tier].allreduce
    ratios = allreduce_ratios(curve, table)
    assert ratios == pytest.approx([1.0] * len(table.sizes), rel=tolerance)
    of_two = Table(table.source, 2, table.times_us)
    assert allreduce_ratios(curve, of_two) != pytest.approx([1.0] * len(table.sizes), rel=tolerance)


@pytest.mark.parametrize(
    "build, tables",
    [
        (ethernet_cluster, published.ETHERNET_ALLREDUCE),
        (infiniband_cluster, published.INFINIBAND_ALLREDUCE),
    ],
)
def test_the_stated_spread_covers_rank_counts_that_were_not_fitted(build, tables):
    link = build().links[Tier.NETWORK]
    for ranks, table in tables.items():
        assert link.allreduce_ranks.holds(ranks)
        assert max(max(r, 1 / r) for r in allreduce_ratios(link.allreduce, table)) < 3.0
    every = [
        ratio for table in tables.values() for ratio in allreduce_ratios(link.allreduce, table)
    ]
    assert root_mean_square_log(every) < OTHER_COUNTS_REL_SIGMA < link.allreduce.rel_sigma


def test_a_ring_allgather_of_h100_messages_takes_what_was_published():
    table, curve = published.NVLINK_ALLGATHER, h100_node().links[Tier.NODE].message
    ratios = [
        (table.ranks - 1) * message_s(curve, nbytes / table.ranks) / time_s
        for nbytes, time_s in zip(table.sizes, table.times_s, strict=True)
    ]
    assert ratios == pytest.approx([1.0] * len(ratios), rel=0.08)


def test_an_allreduce_over_two_h100_nodes_is_within_its_spread_of_what_was_published():
    machine, table = h100_node(), published.H100_TWO_NODES_ALLREDUCE
    costs = Costs(machine, Mesh(dp=16), ranks_per_node=8)

    def allreduce_s(nbytes: int) -> float:
        part = Part("grad", 0, nbytes // 4)
        return costs.library_s(Collective("", CollectiveKind.ALLREDUCE, part, Axis.DP), 4)

    ratios = [allreduce_s(n) / time_s for n, time_s in zip(table.sizes, table.times_s, strict=True)]
    network = costs.link(Tier.NETWORK).allreduce
    assert max(abs(math.log(ratio)) for ratio in ratios) < 1.645 * network.rel_sigma
    # Both tiers at once are faster than one after the other, and slower than either alone.
    assert max(ratios) < 1.0
    assert min(ratios) > 0.6


# Bytes a second in one direction. The virtual NIC's 10 Gbit/s are a sustained limit: the table
# itself has 1.32 GB/s at four mebibytes.
@pytest.mark.parametrize(
    "build, tier, limit",
    [
        (ethernet_cluster, Tier.NETWORK, 1.35e9),
        (infiniband_cluster, Tier.NETWORK, 12.5e9),
        (h100_node, Tier.NETWORK, 50e9),
        (h100_node, Tier.NODE, 450e9),
    ],
)
def test_no_link_is_above_its_bandwidth(build, tier, limit):
    curve = build().links[tier].message
    assert curve.nbytes.high / message_s(curve, curve.nbytes.high) < limit


def test_no_h100_kernel_is_above_the_datasheet():
    compute = h100_node().compute
    assert compute is not None
    for kernel in (Kernel.LINEAR, Kernel.CONV, Kernel.CONV_BACKWARD):
        found = compute.kernels[kernel].coefficients_s
        assert 1 / found["wave_flops_32"] < published.H100_FLOPS_PER_S
        assert 4 / found["moved"] < published.H100_BYTES_PER_S
    assert all(model.num_samples == 0 for model in compute.kernels.values())
    assert all(model.rel_sigma >= 0.3 for model in compute.kernels.values())


def test_an_h100_convolution_takes_its_flops_and_bytes():
    compute = h100_node().compute
    assert compute is not None
    program = plan_step(Workload(named_network("resnet18-small"), 256), Mesh())
    ops = [op for op in program.ops(0) if isinstance(op, Compute) and op.kernel is Kernel.CONV]
    costs = Costs(h100_node(), Mesh(), ranks_per_node=1)
    for op in ops:
        least_s = op.flops / published.H100_FLOPS_PER_S + 2e-6
        assert (
            least_s
            < costs.compute_s(op, 1 << 30)
            < 3 * op.flops / published.H100_FLOPS_PER_S + 1e-3
        )
    assert len(ops) == 20


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_machine_costs_every_op_of_a_program(name):
    program = plan_step(Workload(mlp(128, 100, 26), 1024), TWO_NODES_OF_TWO)
    costs = Costs(find_machine(name), TWO_NODES_OF_TWO, ranks_per_node=2)
    ops = list(program.ops(0))
    assert any(isinstance(op, Collective) for op in ops)
    for op in ops:
        match op:
            case Compute():
                assert 0.0 < costs.compute_s(op, 1 << 20) < 1.0
            case Collective(kind=CollectiveKind.ALLREDUCE):
                assert 0.0 < costs.library_s(op, 4) < 1.0
    for tier in Tier:
        latency_s, transfer_s = costs.message(4096, tier)
        assert 0.0 < latency_s + transfer_s < 1e-3


def test_nothing_of_the_h100_compute_counts_as_measured():
    program = plan_step(Workload(mlp(128, 100, 26), 1024), TWO_NODES_OF_TWO)
    costs = Costs(find_machine("h100-node"), TWO_NODES_OF_TWO, ranks_per_node=2)
    computes = [op for op in program.ops(0) if isinstance(op, Compute)]
    for op in computes:
        costs.compute_s(op, 1 << 20)
    assert len(costs.extrapolated) == len({(op.kernel, op.shape) for op in computes}) > 0


def test_only_nccl_overlaps():
    shares = {name: find_machine(name).overlap_share for name in NAMES}
    assert shares["ethernet-cluster"] == shares["infiniband-cluster"] == 0.0
    assert 0.0 < shares["h100-node"] < 1.0


def test_local_without_a_profile_says_how_to_make_one(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path))
    with pytest.raises(MachineError, match=r"no profile yet.*python -m calibration, or choose"):
        find_machine("local")


def test_a_combination_takes_each_part_from_the_first_that_has_it(monkeypatch, tmp_path):
    ethernet, h100 = find_machine("ethernet-cluster"), find_machine("h100-node")
    assert find_machine("ethernet-cluster+h100-node").links == ethernet.links
    node_only = ethernet.model_copy(update={"links": {Tier.NODE: ethernet.links[Tier.NODE]}})
    path = tmp_path / "machine.json"
    path.write_text(node_only.model_dump_json(exclude_none=True))
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path))
    combined = find_machine("local+h100-node")
    assert combined.compute == ethernet.compute
    assert combined.links == {
        Tier.NODE: ethernet.links[Tier.NODE],
        Tier.NETWORK: h100.links[Tier.NETWORK],
    }


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(MachineError, match=r"got 'h100-nodes'; did you mean 'h100-node'\?"):
        find_machine("h100-nodes")


def test_a_measured_h100_replaces_the_datasheet(tmp_path):
    samples = samples_on(rungs(24), 0.0, SQUARE)
    measured = assemble("one", PROVENANCE, samples, cores_per_node=1, memory_nbytes=81 << 30)
    write_machine(measured, tmp_path / "machine-h100-sxm.json")
    found = h100_node(tmp_path)
    assert found.compute is not None
    assert measured.compute is not None
    assert found.compute.kernels == measured.compute.kernels
    assert found.compute.memory_nbytes == 8 * (81 << 30)
    assert found.compute.cores_per_node == 8
    assert "machine-h100-sxm.json" in found.compute.source
    assert "measured by us" in found.description
    assert found.copies == measured.copies
    assert found.links == h100_node(tmp_path / "empty").links


def test_gpus_of_a_node_each_drive_one_lane_of_its_network():
    machine, part = h100_node(), Part("grad", 0, 1 << 28)
    op = Collective("", CollectiveKind.ALLREDUCE, part, Axis.DP)
    alone, full = (Costs(machine, Mesh(dp=2 * n), n).library_s(op, 4) for n in (1, 8))
    # Two GPUs of two nodes have one NIC each; sixteen have eight, and sum inside nodes meanwhile.
    assert alone / full == pytest.approx(8 * (1 << 30) / 384e9 / 4.0224e-3, rel=0.05)
    _, transfer_s = Costs(machine, Mesh(dp=16), 8).message(1 << 30, Tier.NETWORK)
    assert transfer_s == pytest.approx((1 << 30) / 48e9)
    assert Costs(machine, Mesh(dp=16), 8).sharing(Tier.NETWORK, 8) == 1


def test_a_gpu_over_links_of_hosts_copies_there_and_back(tmp_path):
    samples = samples_on(rungs(24), 0.0, SQUARE)
    gpu = assemble("one", PROVENANCE, samples, cores_per_node=1, memory_nbytes=81 << 30)
    ethernet = ethernet_cluster()
    over = Costs(gpu.combined_with(ethernet), Mesh(dp=2), 1)
    plain = Costs(ethernet, Mesh(dp=2), 1)
    nbytes = 1 << 20
    copies_s = 16e-6 + nbytes / 5e10 + nbytes / 4e10
    more_s = sum(over.message(nbytes, Tier.NETWORK)) - sum(plain.message(nbytes, Tier.NETWORK))
    assert more_s == pytest.approx(copies_s, rel=1e-3)
    op = Collective("", CollectiveKind.ALLREDUCE, Part("grad", 0, nbytes // 4), Axis.DP)
    assert over.library_s(op, 4) - plain.library_s(op, 4) == pytest.approx(copies_s, rel=1e-3)
    without = gpu.model_copy(update={"copies": {}}).combined_with(ethernet)
    with pytest.raises(MachineError, match="nothing of copies between host and GPU"):
        Costs(without, Mesh(dp=2), 1).message(nbytes, Tier.NETWORK)


@pytest.mark.parametrize("nbytes, ranks_per_node, fits", [
    (80_000_000_000, 8, True), (80_000_000_001, 1, False), (40_000_000_001, 16, False), (40_000_000_000, 16, True),
])  # fmt: skip
def test_each_gpu_keeps_its_memory_to_itself(nbytes, ranks_per_node, fits):
    assert fits_memory(h100_node(), Mesh(dp=32), nbytes, ranks_per_node) is fits
