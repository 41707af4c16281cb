"""Laws of the layout: nothing held twice, nothing lost, and the stages as even as can be."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.network.modules import Add, AvgPool, BatchNorm2d, Conv2d, Linear, ReLU
from exec.network.network import Network, build, mlp
from exec.plan.layout import Layout, check_mesh, layout_of, tensor_classes
from exec.plan.options import PlanOptions
from exec.plan.shards import Split
from exec.plan.stages import balanced, stage_nodes
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.peers import split_size
from exec.workload import Workload
from tests.exec.random_graphs import draw_graph
from tests.exec.random_networks import draw_network
from tests.exec.random_plans import Case, all_cases, draw_mlp, small_residual

SETTINGS = settings(derandomize=True, deadline=None, max_examples=80)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Draw a network of any kind."""
    kind = draw(st.sampled_from([draw_mlp, draw_network, draw_graph]))
    return kind(lambda options: draw(st.sampled_from(options)))


def layouts(case: Case) -> list[Layout]:
    """Return the layouts of all ranks of a replica, stage by stage."""
    mesh, options = case.mesh, case.options
    return [
        layout_of(case.workload.network, mesh, stage, tp_rank, options)
        for stage in range(mesh.pp)
        for tp_rank in range(mesh.tp)
    ]  # fmt: skip


def is_held_by_all(layout: Layout, node: int) -> bool:
    """Say whether every rank of a tp group holds all parameters of ``node``."""
    is_before = layout.exchange is not None and node < layout.exchange
    return is_before or layout.shard(node).split is Split.FULL


@SETTINGS
@given(all_cases())
def test_weights_are_held_once_or_where_nodes_are_not_split_by_every_rank(case: Case) -> None:
    network, mesh = case.workload.network, case.mesh
    held: dict[int, np.ndarray] = {}  # by node: outputs x inputs, and the bias in a last column
    for layout in layouts(case):
        for shard in layout.shards:
            each = network.nodes[shard.node]
            outputs = slice(shard.out_start, shard.out_stop)
            inputs, channels = network.shape(each.inputs[0])[0], each.shape[0]
            match each.module:
                case Linear() | Conv2d():
                    window = each.module.kernel if isinstance(each.module, Conv2d) else (1, 1)
                    count = held.setdefault(shard.node, np.zeros((channels, inputs + 1), int))
                    count[outputs, shard.in_start : shard.in_stop] += 1
                    count[outputs, -1] += shard.num_biases > 0
                    weights = shard.num_inputs * shard.num_outputs * window[0] * window[1]
                    assert (shard.num_weights, shard.num_stats) == (weights, 0)
                    assert shard.num_biases in (0, shard.num_outputs)
                case BatchNorm2d():
                    held.setdefault(shard.node, np.zeros((channels, 1), int))[outputs] += 1
                    assert shard.num_weights == shard.num_biases == shard.num_outputs
                    assert shard.num_stats == 2 * shard.num_outputs
                case _:
                    assert shard.num_parameters == shard.num_stats == 0
    of_node = {shard.node: layout for layout in layouts(case) for shard in layout.shards}
    for node, count in held.items():
        module, copies = network.nodes[node].module, mesh.tp if is_held_by_all(of_node[node], node) else 1  # fmt: skip
        if not isinstance(module, BatchNorm2d):
            assert (count[:, -1] == copies * module.has_bias).all()
        weights = count if isinstance(module, BatchNorm2d) else count[:, :-1]
        assert (weights == copies).all()
    assert sum(network.parameters(node) for node in held) == case.workload.num_parameters


@SETTINGS
@given(all_cases())
def test_parameters_over_a_replica_sum_to_the_workload(case: Case) -> None:
    network, tp = case.workload.network, case.mesh.tp
    again = sum(
        (tp - 1) * network.parameters(shard.node)
        for layout in layouts(case)[::tp]
        for shard in layout.shards
        if is_held_by_all(layout, shard.node)
    )
    assert (
        sum(each.num_parameters for each in layouts(case)) == case.workload.num_parameters + again
    )


@SETTINGS
@given(all_cases())
def test_nodes_lie_one_behind_another(case: Case) -> None:
    for layout in layouts(case):
        stop = stats = 0
        for shard in layout.shards:
            assert layout.offsets[shard.node] == stop
            assert layout.stat_offsets[shard.node] == stats
            stop += shard.num_parameters
            stats += shard.num_stats
        assert (stop, stats) == (layout.num_parameters, layout.num_stats)


@SETTINGS
@given(networks(), st.data())
def test_stages_make_the_costliest_one_cheapest(network: Network, data: st.DataObject) -> None:
    starts = network.stage_starts
    stages = data.draw(st.integers(1, min(len(starts), 5)))
    costs = data.draw(st.lists(st.integers(0, 50), min_size=len(network.nodes), max_size=len(network.nodes)))  # fmt: skip

    def costliest(cuts: tuple[int, ...]) -> int:
        edges = (0, *cuts, len(costs))
        return max(sum(costs[a:b]) for a, b in pairwise(edges))

    cuts = balanced(network, stages, costs)
    assert len(cuts) == stages - 1
    assert set(cuts) <= set(starts[1:])
    # Every way to put the stages' borders where one can begin, by brute force.
    assert costliest(cuts) == min(map(costliest, combinations(starts[1:], stages - 1)))


@SETTINGS
@given(networks(), st.data())
def test_stages_take_one_value_each_and_share_out_the_nodes(
    network: Network, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(network.stage_starts)))
    cuts = tuple(sorted(data.draw(st.permutations(network.stage_starts[1:]))[: count - 1]))
    for split in (stage_nodes(network, count), stage_nodes(network, count, cuts)):
        assert [node for nodes in split for node in nodes] == list(range(len(network.nodes)))
        assert len(split) == count
        assert all(any(network.parameters(node) for node in nodes) for nodes in split)
        for nodes in split[1:]:
            later = range(nodes.start, len(network.nodes))
            taken = {v for node in later for v in network.nodes[node].inputs if v < nodes.start}
            assert taken == {nodes.start - 1}


@SETTINGS
@given(networks())
def test_default_stages_are_those_balanced_by_flops(network: Network) -> None:
    workload = Workload(network, 1)
    flops = [workload.node_flops(node) for node in range(len(network.nodes))]
    for count in range(1, len(network.stage_starts) + 1):
        starts = [nodes.start for nodes in stage_nodes(network, count)[1:]]
        assert tuple(starts) == balanced(network, count, flops)


def test_cuts_are_where_all_that_follows_takes_one_value() -> None:
    conv = Conv2d(4, (3, 3), padding=(1, 1))
    network = build("block", (4, 4, 4), [
        ("stem", conv, ()), ("one", conv, ()), ("two", conv, ()), ("sum", Add(), ("two", "stem")),
        ("pool", AvgPool(), ()), ("fc", Linear(3), ()),
    ])  # fmt: skip
    # All from the first of the branch on take the stem; before the second there is the branch, too.
    assert [network.nodes[start].name for start in network.stage_starts] == ["stem", "one", "fc"]
    with pytest.raises(UsageError, match=r"in order, some of the layers .* \(one, fc\), got two"):
        stage_nodes(network, 2, (2,))
    with pytest.raises(UsageError, match=r"must name 1 of the layers, .* with pp 2, got 2"):
        stage_nodes(network, 2, (1, 5))


def test_a_first_stage_may_begin_where_several_take_the_images() -> None:
    network = build("two ways", (2, 2, 2), [
        ("relu", ReLU(), ()), ("conv", Conv2d(2, (1, 1)), ("input",)), ("sum", Add(), ("conv", "relu")),
        ("pool", AvgPool(), ()), ("fc", Linear(2), ()),
    ])  # fmt: skip
    assert stage_nodes(network, 2) == (range(4), range(4, 5))


@SETTINGS
@given(all_cases())
def test_tensor_classes_partition_the_ranks_by_size(case: Case) -> None:
    tp = case.mesh.tp
    rows = range(1, 9)
    for stage in range(case.mesh.pp):
        group = layouts(case)[stage * tp : (stage + 1) * tp]
        classes = tensor_classes(group[0], tp, rows)
        assert [t for members in classes for t in members] == list(range(tp))
        for members in classes:
            sizes = {
                tuple((s.num_inputs, s.num_outputs, s.num_parameters, s.num_stats) for s in group[t].shards)
                for t in members
            }  # fmt: skip
            assert len(sizes) == 1
            for count in rows:
                buffers = [group[t].slot_elements(count) for t in members]
                assert buffers == buffers[:1] * len(members)


def test_column_and_row_splits_alternate_inside_a_stage() -> None:
    shards = layout_of(mlp(9, 8, 7, 6, 5, 4), Mesh(tp=2), 0, 0).shards
    column, row, full = Split.COLUMN, Split.ROW, Split.FULL
    # The sigmoid of a column split works on single units; that of a row split on the whole sum.
    assert [each.split for each in shards] == [
        column, column, row, full, column, column, row, full, column,
    ]  # fmt: skip
    assert [each.node for each in shards if each.gathers] == [8]
    assert {each.split for each in layout_of(mlp(9, 8, 4), Mesh(), 0, 0).shards} == {full}


def test_a_residual_network_is_split_by_columns_and_gathered_before_what_two_take() -> None:
    shards = layout_of(small_residual(), Mesh(tp=2), 0, 0).shards
    column, row, full = Split.COLUMN, Split.ROW, Split.FULL
    # conv1 bn1 relu1, which two take; conv2 bn2, which a sum takes; add relu2 pool; fc, the last.
    assert [each.split for each in shards] == [column] * 5 + [full] * 3 + [column]
    assert [each.node for each in shards if each.gathers] == [2, 4, 8]
    assert row not in {each.split for each in shards}


@SETTINGS
@given(all_cases(), st.integers(1, 6))
def test_buffers_are_as_large_as_what_is_in_them(case: Case, rows: int) -> None:
    network = case.workload.network
    for layout in layouts(case):
        slot, shared = layout.slot_elements(rows), layout.shared_elements(rows)
        assert not set(slot) & set(shared)
        assert all(layout.has_slots(name) for name in slot)
        assert not any(layout.has_slots(name) for name in shared)
        assert slot["x"] == network.width(layout.input) * layout.rows_at(-2, rows)
        # What goes to the next stage, or into the loss, is whole.
        assert slot[f"a{layout.final}"] == network.width(layout.final) * rows
        assert ("t" in slot, "gy" in slot, "gx" in slot) == (layout.is_last, not layout.is_last, not layout.is_first)  # fmt: skip
        for shard in layout.shards:
            home = layout.places.home[shard.node]
            own = shard.num_outputs * network.pixels(shard.node) * layout.rows_at(shard.node, rows)
            if home >= 0:
                assert slot[layout.buffer(home)] >= own
            if home in layout.places.gradient:
                assert shared[layout.gradient(home)] >= own


@SETTINGS
@given(all_cases())
def test_a_role_holds_the_sum_of_what_its_layout_lists(case: Case) -> None:
    program = case.program
    by_rank = {(layout.stage, layout.tp_rank): layout for layout in layouts(case)}
    for role in program.roles:
        for tp_rank in role.tp:
            layout = by_rank[role.pp.start, tp_rank]
            own = split_size(case.workload.global_batch, case.mesh.dp, role.dp.start)
            rows = split_size(own, case.options.num_microbatches, 0)
            listed = role.slots * sum(layout.slot_elements(rows).values())
            listed += sum(layout.shared_elements(rows).values())
            listed += sum(part.size for part in role.holds)
            assert role.nbytes == listed * case.workload.itemsize
        sizes = {part.buffer: part.size for part in role.holds}
        assert sizes["param"] == sizes["grad"] == layout.num_parameters
        assert sizes.get("stat", 0) == layout.num_stats
        assert ("velocity" in sizes) is case.workload.has_momentum


SIX = mlp(6, 5, 4)


@pytest.mark.parametrize(
    ("network", "batch", "mesh", "options", "message"),
    [
        (SIX, 8, Mesh(pp=3), PlanOptions(), "pp must be at most the 2 layers of 6-5-4 at which a stage can begin, got 3 stages; use fewer stages or a deeper net"),
        (mlp(6, 3, 4), 8, Mesh(tp=4), PlanOptions(), "tp must be at most the 3 channels or units that layer linear0 of 6-3-4 splits, got 4"),
        (SIX, 8, Mesh(tp=6), PlanOptions(), "tp must be at most the 5 channels or units that layer linear0 of 6-5-4 splits, got 6"),
        (SIX, 3, Mesh(dp=4), PlanOptions(), "batch must be at least dp x microbatches = 4 x 1 = 4, got 3; use a larger batch or fewer ranks"),
        (SIX, 7, Mesh(dp=2), PlanOptions(4), "batch must be at least dp x microbatches = 2 x 4 = 8, got 7; use a larger batch or fewer ranks"),
        (SIX, 8, Mesh(tp=2), PlanOptions(strategy=Strategy.KRIZHEVSKY), "strategy krizhevsky needs convolutions and dense layers behind them, got net 6-5-4; choose data, tensor or hybrid"),
        (small_residual(), 8, Mesh(tp=5), PlanOptions(), "tp must be at most the 4 channels or units that layer conv1 of small_residual splits, got 5"),
    ],
)  # fmt: skip
def test_mesh_that_the_network_does_not_admit_is_refused(
    network: Network, batch: int, mesh: Mesh, options: PlanOptions, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check_mesh(Workload(network, batch), mesh, options)
    assert str(caught.value) == message


@SETTINGS
@given(all_cases())
def test_mesh_that_is_admitted_leaves_no_rank_without_work(case: Case) -> None:
    check_mesh(case.workload, case.mesh, case.options)
    for layout in layouts(case):
        assert all(min(shard.num_inputs, shard.num_outputs) > 0 for shard in layout.shards)
