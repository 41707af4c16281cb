"""Laws of the planned step: the work is the serial work, shared."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from exec.network.modules import BatchNorm2d
from exec.network.network import mlp
from exec.plan.collectives import expand, scratch_elements
from exec.plan.layout import Layout, layout_of
from exec.plan.shards import Split
from exec.plan.step import plan_step
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Accumulate, Algorithm, Collective, Compute, Kernel
from exec.program.peers import Part
from exec.program.program import Program
from exec.program.traffic import collective_nbytes
from exec.workload import Workload
from tests.exec.random_networks import draw_network
from tests.exec.random_plans import Case, all_cases, cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=80)


def computed(program: Program) -> Iterator[Compute]:
    """Yield the compute ops of all ranks."""
    for rank in range(program.mesh.world_size):
        yield from (op for op in program.ops(rank) if isinstance(op, Compute))


def flops(program: Program) -> Counter[tuple[Kernel, int]]:
    """Return the flops of all ranks, by kernel and layer."""
    sums: Counter[tuple[Kernel, int]] = Counter()
    for op in computed(program):
        sums[op.kernel, op.layer] += op.flops
    return sums


def rank_layout(case: Case, rank: int) -> Layout:
    """Return the layout of ``rank``."""
    _, stage, tp_rank = case.mesh.coordinates(rank)
    return layout_of(case.workload.network, case.mesh, stage, tp_rank, case.options)  # fmt: skip


def layouts(case: Case) -> dict[int, Layout]:
    """Return, for each node, the layout of a first rank that holds it."""
    mesh, options = case.mesh, case.options
    found = [
        layout_of(case.workload.network, mesh, stage, 0, options)
        for stage in range(mesh.pp)
    ]  # fmt: skip
    return {shard.node: layout for layout in found for shard in layout.shards}


@SETTINGS
@given(all_cases())
def test_flops_over_all_ranks_are_the_serial_ones(case: Case) -> None:
    # A column split shares channels, so products and biases: nothing is left over. A row split shares
    # the inputs: each rank makes all n m p outputs from its share of k, so the products 2 n k m p are
    # shared, but each of the tp ranks counts n m p for its bias or its partial sum: (tp - 1) n m p
    # more. What is not split every rank of a tp group does; before an exchange, on samples of its own.
    workload, mesh = case.workload, case.mesh
    network = workload.network
    serial = flops(plan_step(workload, Mesh()))
    shared = flops(case.program)
    for kernel, node in serial:
        if kernel in (Kernel.LOAD, Kernel.LOSS, Kernel.UPDATE):
            continue
        layout = layouts(case)[node]
        shard, expected = layout.shard(node), serial[kernel, node]
        is_before = layout.exchange is not None and node < layout.exchange
        if shard.split is Split.FULL and not is_before:
            expected *= mesh.tp
        elif shard.split is Split.ROW:
            outputs = workload.global_batch * network.width(node)
            expected += (mesh.tp - 1) * outputs
        assert shared[kernel, node] == expected
    kernels = {key for key in shared if key[0] not in _ELSEWHERE}
    assert kernels == {key for key in serial if key[0] not in _ELSEWHERE}


_ELSEWHERE = (Kernel.LOAD, Kernel.LOSS, Kernel.UPDATE, Kernel.TRANSPOSE, Kernel.TRANSPOSE_BACKWARD)


@SETTINGS
@given(all_cases())
def test_every_sample_is_loaded_and_lost_once_per_tensor_group(case: Case) -> None:
    images = labels = losses = 0
    for op in computed(case.program):
        losses += op.shape.n * (op.kernel is Kernel.LOSS)
        if op.kernel is Kernel.LOAD:
            images += op.shape.n * (op.shape.k > 0)
            labels += op.shape.n * (op.shape.m > 0)
    batch, tp = case.workload.global_batch, case.mesh.tp
    assert labels == losses == batch * tp
    # Where the batch is exchanged each rank of a group has images of its own.
    assert images == (batch if case.options.is_exchanged else batch * tp)


@SETTINGS
@given(all_cases())
def test_every_rank_updates_every_parameter_it_holds_once(case: Case) -> None:
    program = case.program
    for rank in range(case.mesh.world_size):
        held = program.role_of(rank).held("param")
        assert held is not None
        # Where replicas share one set of weights each updates a slice.
        owners = case.mesh.group(rank, Axis.DP) if program.is_shared else (rank,)
        updates = [
            op
            for owner in owners
            for op in program.ops(owner)
            if isinstance(op, Compute) and op.kernel is Kernel.UPDATE
        ]
        parts = [op.part or held for op in updates]
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(held.size))
        assert [op.shape.m for op in updates] == [-(-held.size // len(owners))] * len(owners)


def all_reducing_cases() -> st.SearchStrategy[Case]:
    """Draw a case whose replicas do not share a window."""
    return all_cases().filter(lambda case: not case.program.is_shared)


def reduced(case: Case, rank: int, axis: Axis) -> list[Part]:
    """Return the parts of the gradient that ``rank`` all-reduces along ``axis``, in order."""
    return [
        op.part
        for op in case.program.ops(rank)
        if isinstance(op, Collective) and op.axis is axis and op.part.buffer == "grad"
    ]


@SETTINGS
@given(all_reducing_cases())
def test_buckets_cover_the_gradient_once(case: Case) -> None:
    mesh = case.mesh
    for rank in range(mesh.world_size):
        layout = rank_layout(case, rank)
        size, alike = layout.num_parameters, layout.num_before_exchange
        for axis, stop in ((Axis.DP, size if mesh.dp > 1 else 0), (Axis.TP, alike)):
            parts = reduced(case, rank, axis)
            covered = sorted(i for part in parts for i in range(part.start, part.stop))
            assert covered == list(range(stop))
            # The last nodes' gradients are ready first, and a bucket waits until it is large enough,
            # or until what others hold alike begins.
            assert parts == sorted(parts, key=lambda part: -part.start)
            least = case.options.bucket_nbytes
            assert all(
                part.size * case.workload.itemsize >= least or part.start in (0, alike)
                for part in parts
            )


@SETTINGS
@given(all_reducing_cases())
def test_all_reduced_bytes_are_those_of_the_gradient(case: Case) -> None:
    # By the textbook an all-reduce of n bytes makes each of p ranks send 2 (p - 1) / p n.
    workload, mesh = case.workload, case.mesh
    sent = sum(
        collective_nbytes(op.kind, op.part.size * workload.itemsize, mesh.dp, is_root=False)
        for rank in range(mesh.world_size)
        for op in case.program.ops(rank)
        if isinstance(op, Collective) and op.axis is Axis.DP and op.part.buffer == "grad"
    )
    held = sum(case.program.role_of(rank).held("grad").size for rank in range(mesh.world_size))  # type: ignore[union-attr]  # all train
    expected = 2 * (mesh.dp - 1) / mesh.dp * held * workload.itemsize
    num_rounded = 40 * mesh.world_size  # a byte each
    assert expected <= sent <= expected + num_rounded


@SETTINGS
@given(cases(network=draw_network))
def test_normalisation_is_shared_by_all_replicas_only_where_asked(case: Case) -> None:
    network, mesh = case.workload.network, case.mesh
    shared = [
        (rank, op)
        for rank in range(mesh.world_size)
        for op in case.program.ops(rank)
        if isinstance(op, Collective) and op.part.buffer.startswith("s")
    ]
    nodes = [i for i, node in enumerate(network.nodes) if isinstance(node.module, BatchNorm2d)]
    axes = (mesh.dp > 1) + (case.options.is_exchanged and mesh.tp > 1)
    if not case.options.sync_batchnorm:
        assert not shared
        return
    # Forward and backward, two numbers a channel of each microbatch.
    times = 2 * case.options.num_microbatches * axes
    for rank in range(mesh.world_size):
        layout = rank_layout(case, rank)
        sizes = [op.part.size for each, op in shared if each == rank]
        held = [node for node in nodes if node in layout.nodes]
        assert sorted(sizes) == sorted(
            2 * layout.shard(node).num_outputs for node in held for _ in range(times)
        )


@SETTINGS
@given(all_cases())
def test_overlap_of_messages_changes_the_order_only(case: Case) -> None:
    options = replace(case.options, shares_memory=False)
    one, other = (
        plan_step(case.workload, case.mesh, replace(options, overlap=overlap))
        for overlap in (False, True)
    )
    for a, b in zip(one.roles, other.roles, strict=True):
        kept = [[op for op in role.ops if isinstance(op, Compute | Collective)] for role in (a, b)]
        assert sorted(kept[0], key=repr) == sorted(kept[1], key=repr)


@SETTINGS
@given(all_cases())
def test_scratch_holds_the_largest_addend(case: Case) -> None:
    program = case.expanded
    used = [
        op.source.stop
        for rank in range(program.mesh.world_size)
        for op in program.ops(rank)
        if isinstance(op, Accumulate) and op.peer is None  # of what was sent
    ]
    # Roles give a bound over their ranks before chunks are resolved, so never too little.
    assert scratch_elements(program) >= max(used, default=0)
    assert scratch_elements(program) <= max([0, *(
        op.part.stop - op.part.start
        for role in case.program.roles
        for op in role.ops
        if isinstance(op, Collective)
    )])  # fmt: skip


def test_without_an_algorithm_nothing_is_expanded_and_no_scratch_is_needed() -> None:
    program = plan_step(Workload(mlp(6, 5, 4), 8), Mesh(2, 2, 2))
    assert all(
        op.algorithm is Algorithm.LIBRARY
        for role in program.roles
        for op in role.ops
        if isinstance(op, Collective)
    )
    assert expand(program) == program
    assert scratch_elements(program) == 0
