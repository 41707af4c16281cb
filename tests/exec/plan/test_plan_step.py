"""Laws of the planned step: the work is the serial work, shared."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given, settings

from exec.network.network import mlp
from exec.plan.collectives import expand, scratch_elements
from exec.plan.layout import layout_of
from exec.plan.step import plan_step
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Accumulate, Algorithm, Collective, Compute, Kernel
from exec.program.program import Program
from exec.workload import Workload
from tests.exec.random_plans import Case, cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=150)


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


@SETTINGS
@given(cases())
def test_linear_flops_over_all_ranks_are_the_serial_ones(case: Case) -> None:
    # A column split shares units, so products and biases: nothing is left over. A row split shares
    # the inputs: each rank makes all n m outputs from its share of k, so the products 2 n k m are
    # shared, but each of the tp ranks counts n m for its bias or its partial sum: (tp - 1) n m more.
    workload, mesh = case.workload, case.mesh
    serial = flops(plan_step(workload, Mesh()))
    shared = flops(case.program)
    row_layers = {
        shard.layer
        for stage in range(mesh.pp)
        for shard in layout_of(workload.widths, mesh, stage, 0).shards
        if shard.split == "row"
    }
    for kernel in (Kernel.LINEAR, Kernel.LINEAR_BACKWARD, Kernel.LINEAR_BACKWARD_FIRST):
        for layer in range(workload.num_layers):
            bias = workload.global_batch * workload.widths[layer + 1]
            extra = (mesh.tp - 1) * bias if layer in row_layers and serial[kernel, layer] else 0
            assert shared[kernel, layer] == serial[kernel, layer] + extra


@SETTINGS
@given(cases())
def test_every_sample_is_loaded_and_lost_once_per_tensor_group(case: Case) -> None:
    samples: Counter[Kernel] = Counter()
    for op in computed(case.program):
        samples[op.kernel] += op.shape.n
    batch, mesh = case.workload.global_batch, case.mesh
    assert samples[Kernel.LOSS] == batch * mesh.tp
    # The first stage loads images, the last one labels.
    assert samples[Kernel.LOAD] == batch * mesh.tp * min(mesh.pp, 2)


@SETTINGS
@given(cases())
def test_every_replica_updates_every_parameter_once(case: Case) -> None:
    updated = sum(op.shape.m for op in computed(case.program) if op.kernel is Kernel.UPDATE)
    assert updated == case.mesh.dp * case.workload.num_parameters


@SETTINGS
@given(cases())
def test_buckets_cover_the_gradient_once(case: Case) -> None:
    program, mesh = case.program, case.mesh
    for rank in range(mesh.world_size):
        _, stage, tp_rank = mesh.coordinates(rank)
        parts = [
            op.part for op in program.ops(rank) if isinstance(op, Collective) and op.axis is Axis.DP
        ]
        size = layout_of(case.workload.widths, mesh, stage, tp_rank).num_parameters
        covered = sorted(i for part in parts for i in range(part.start, part.stop))
        assert covered == (list(range(size)) if mesh.dp > 1 else [])
        # The last layers' gradients are ready first, and a bucket waits until it is large enough.
        assert parts == sorted(parts, key=lambda part: -part.start)
        least = case.options.bucket_nbytes
        assert all((p.stop - p.start) * case.workload.itemsize >= least for p in parts[:-1])


@SETTINGS
@given(cases())
def test_overlap_changes_the_order_only(case: Case) -> None:
    one, other = (
        plan_step(case.workload, case.mesh, replace(case.options, overlap=overlap))
        for overlap in (False, True)
    )
    for a, b in zip(one.roles, other.roles, strict=True):
        kept = [[op for op in role.ops if isinstance(op, Compute | Collective)] for role in (a, b)]
        assert sorted(kept[0], key=repr) == sorted(kept[1], key=repr)


@SETTINGS
@given(cases())
def test_scratch_holds_the_largest_addend(case: Case) -> None:
    program = case.expanded
    used = [
        op.source.stop
        for rank in range(program.mesh.world_size)
        for op in program.ops(rank)
        if isinstance(op, Accumulate)
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
