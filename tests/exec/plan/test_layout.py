"""Laws of the layout: nothing held twice, nothing lost, and the stages as even as can be."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.network.network import mlp
from exec.plan.layout import Split, check_mesh, layout_of, stage_layers, tensor_classes
from exec.program.mesh import Mesh
from exec.workload import Workload
from tests.exec.random_plans import Case, cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=150)


@SETTINGS
@given(cases())
def test_each_parameter_is_held_by_exactly_one_rank_of_a_replica(case: Case) -> None:
    widths, mesh = case.workload.widths, case.mesh
    weights = [np.zeros((m, k), int) for k, m in pairwise(widths)]
    biases = [np.zeros(m, int) for m in widths[1:]]
    for stage in range(mesh.pp):
        for tp_rank in range(mesh.tp):
            for shard in layout_of(widths, mesh, stage, tp_rank).shards:
                units = slice(shard.out_start, shard.out_stop)
                weights[shard.layer][units, shard.in_start : shard.in_stop] += 1
                biases[shard.layer][units] += shard.has_bias
    assert all((each == 1).all() for each in (*weights, *biases))


@SETTINGS
@given(cases())
def test_parameters_over_a_replica_sum_to_the_workload(case: Case) -> None:
    mesh, widths = case.mesh, case.workload.widths
    held = [
        layout_of(widths, mesh, s, t).num_parameters for s in range(mesh.pp) for t in range(mesh.tp)
    ]
    assert sum(held) == case.workload.num_parameters


@SETTINGS
@given(cases())
def test_layers_lie_one_behind_another(case: Case) -> None:
    for stage in range(case.mesh.pp):
        layout = layout_of(case.workload.widths, case.mesh, stage, 0)
        stop = 0
        for shard in layout.shards:
            assert layout.offset(shard.layer) == stop
            stop += shard.num_parameters
        assert stop == layout.num_parameters


@SETTINGS
@given(st.lists(st.integers(1, 40), min_size=2, max_size=8), st.data())
def test_stage_split_minimises_the_costliest_stage(widths: list[int], data: st.DataObject) -> None:
    widths[-1] = max(widths[-1], 2)
    workload = Workload(tuple(widths), 1)
    stages = data.draw(st.integers(1, workload.num_layers))
    flops = [workload.layer_flops(layer) for layer in range(workload.num_layers)]

    def costliest(borders: tuple[int, ...]) -> int:
        edges = (0, *borders, len(flops))
        return max(sum(flops[a:b]) for a, b in pairwise(edges))

    split = stage_layers(workload.widths, stages)
    assert [layer for layers in split for layer in layers] == list(range(workload.num_layers))
    assert len(split) == stages
    assert all(split)
    # Every way to put the stages' borders between layers, by brute force.
    ways = combinations(range(1, len(flops)), stages - 1)
    assert costliest(tuple(layers.start for layers in split[1:])) == min(map(costliest, ways))


@SETTINGS
@given(cases())
def test_tensor_classes_partition_the_shards_by_size(case: Case) -> None:
    widths, mesh = case.workload.widths, case.mesh
    for stage in range(mesh.pp):
        classes = tensor_classes(widths, mesh, stage)
        assert [t for members in classes for t in members] == list(range(mesh.tp))
        for members in classes:
            sizes = {
                tuple((s.num_inputs, s.num_units, s.has_bias) for s in layout_of(widths, mesh, stage, t).shards)
                for t in members
            }  # fmt: skip
            assert len(sizes) == 1


def test_column_and_row_splits_alternate_inside_a_stage() -> None:
    splits = [shard.split for shard in layout_of((9, 8, 7, 6, 5, 4), Mesh(tp=2), 0, 0).shards]
    column, row = Split.COLUMN, Split.ROW
    assert splits == [column, row, column, row, Split.COLUMN_GATHER]
    assert [shard.split for shard in layout_of((9, 8, 4), Mesh(), 0, 0).shards] == [Split.FULL] * 2


@SETTINGS
@given(cases(), st.integers(1, 6))
def test_buffers_hold_what_the_ops_move(case: Case, rows: int) -> None:
    workload, mesh = case.workload, case.mesh
    for stage in range(mesh.pp):
        layout = layout_of(workload.widths, mesh, stage, mesh.tp - 1)
        slot, shared = layout.slot_elements(workload, rows), layout.shared_elements(workload, rows)
        assert not set(slot) & set(shared)
        first, last = layout.shards[0], layout.shards[-1]
        assert slot["x"] == workload.widths[first.layer] * rows
        # What goes to the next stage, or into the loss, is whole.
        assert slot[f"a{last.layer}"] == workload.widths[last.layer + 1] * rows
        assert ("t" in slot) is (stage == mesh.pp - 1)
        for shard in layout.shards:
            least = shard.num_units * rows
            assert slot[f"a{shard.layer}"] >= least
            if shard is not last:
                assert shared[f"g{shard.layer}"] >= least


@pytest.mark.parametrize(
    ("widths", "batch", "mesh", "microbatches", "message"),
    [
        ((6, 5, 4), 8, Mesh(pp=3), 1, "pp must be at most the 2 layers of 6-5-4, got 3 stages; use fewer stages or a deeper net"),
        ((6, 3, 4), 8, Mesh(tp=4), 1, "tp must be at most the 3 units that layer 0 of 6-3-4 splits, got 4"),
        ((6, 5, 4), 8, Mesh(tp=6), 1, "tp must be at most the 5 units that layer 0 of 6-5-4 splits, got 6"),
        ((6, 5, 4), 3, Mesh(dp=4), 1, "batch must be at least dp x microbatches = 4 x 1 = 4, got 3; use a larger batch or fewer ranks"),
        ((6, 5, 4), 7, Mesh(dp=2), 4, "batch must be at least dp x microbatches = 2 x 4 = 8, got 7; use a larger batch or fewer ranks"),
    ],
)  # fmt: skip
def test_mesh_that_the_network_does_not_admit_is_refused(
    widths: tuple[int, ...], batch: int, mesh: Mesh, microbatches: int, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check_mesh(Workload(mlp(*widths), batch), mesh, microbatches)
    assert str(caught.value) == message


@SETTINGS
@given(cases())
def test_mesh_that_is_admitted_leaves_no_rank_without_work(case: Case) -> None:
    check_mesh(case.workload, case.mesh, case.options.num_microbatches)
    for stage in range(case.mesh.pp):
        for tp_rank in range(case.mesh.tp):
            shards = layout_of(case.workload.widths, case.mesh, stage, tp_rank).shards
            assert all(min(shard.num_inputs, shard.num_units) > 0 for shard in shards)
