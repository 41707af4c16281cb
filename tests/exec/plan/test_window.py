"""Windows: replicas that share one and where they may be, and what each of them does with its slice."""

from dataclasses import replace

import pytest

from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.network.network import mlp
from exec.plan.checkpoint import plan_checkpoint
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.plan.window import check_placement, uses_window, window_size
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Accumulate, Algorithm, Compute, Kernel, Save
from exec.program.program import Program
from exec.workload import Workload

WINDOW = PlanOptions(algorithm=Algorithm.SHARED_WINDOW)


def windows_of(ranks_per_node: int) -> PlanOptions:
    """Return the options of windows on each of several nodes."""
    return PlanOptions(algorithm=Algorithm.HIERARCHICAL, ranks_per_node=ranks_per_node)


def planned(mesh: Mesh) -> Program:
    """Return the step of a small net on ``mesh``."""
    return plan_step(Workload(mlp(6, 5, 4), 24), mesh, WINDOW)


@pytest.mark.parametrize("mesh", [Mesh(2), Mesh(3), Mesh(7), Mesh(2, 2, 1), Mesh(3, 1, 2)])
def test_slices_are_updated_and_saved_once_and_read_of_every_other_replica(mesh: Mesh) -> None:
    program = planned(mesh)
    saves = plan_checkpoint(program, Strategy.HYBRID)
    for first in range(mesh.pp * mesh.tp):
        replicas = mesh.group(first, Axis.DP)
        updated, saved = [], []
        for rank in replicas:
            ops = list(program.ops(rank))
            (update,) = (op for op in ops if isinstance(op, Compute) and op.kernel is Kernel.UPDATE)
            sums = [op for op in ops if isinstance(op, Accumulate)]
            assert update.part is not None
            own = update.part.start, update.part.stop
            assert {(op.into.start, op.into.stop) for op in sums} == {own}
            assert {op.source for op in sums} == {op.into for op in sums}
            assert {op.peer.rank for op in sums} == set(replicas) - {rank}  # type: ignore[union-attr]  # resolved
            updated += range(*own)
            (save,) = (op for op in saves.ops(rank) if isinstance(op, Save))
            saved += range(save.part.start, save.part.stop)
        held = program.role_of(first).held("param")
        assert held is not None
        assert updated == saved == list(range(held.start, held.stop))


@pytest.mark.parametrize(
    "mesh, ranks_per_node, sharers",
    [(Mesh(4), 2, 2), (Mesh(6), 3, 3), (Mesh(8), 2, 2), (Mesh(4, 1, 2), 4, 2), (Mesh(4, 2), 4, 2)],
)
def test_on_several_nodes_every_window_has_all_slices_once_and_the_first_one_saves_them(
    mesh: Mesh, ranks_per_node: int, sharers: int
) -> None:
    options = windows_of(ranks_per_node)
    program = plan_step(Workload(mlp(6, 5, 4), 24), mesh, options)
    assert (program.is_shared, program.sharers) == (True, sharers)
    saves = plan_checkpoint(program, Strategy.HYBRID)
    for rank in range(mesh.world_size):
        held = program.role_of(rank).held("param")
        assert held is not None
        window = mesh.group(rank, Axis.DP, sharers)
        updated, saved = [], []
        for each in window:
            ops = list(program.ops(each))
            assert {rank // ranks_per_node for rank in window} == {each // ranks_per_node}
            (update,) = (op for op in ops if isinstance(op, Compute) and op.kernel is Kernel.UPDATE)
            assert update.part is not None
            own = update.part.start, update.part.stop
            assert update.shape.m >= update.part.size
            sums = [op for op in ops if isinstance(op, Accumulate) and op.peer is not None]
            assert {(op.into.start, op.into.stop) for op in sums} == {own}
            assert {op.peer.rank for op in sums} == set(window) - {each}  # type: ignore[union-attr]  # resolved
            updated += range(*own)
            saved += [i for op in saves.ops(each) if isinstance(op, Save) for i in range(op.part.start, op.part.stop)]  # fmt: skip
        whole = list(range(held.start, held.stop))
        assert updated == whole
        assert saved == (whole if mesh.coordinate(rank, Axis.DP) < sharers else [])


@pytest.mark.parametrize("change", [
    {"overlap": True}, {"shares_memory": False}, {"device": DeviceKind.EMULATED},
    {"strategy": Strategy.AVERAGING}, {"strategy": Strategy.KRIZHEVSKY}, {"ranks_per_node": 1},
    {"algorithm": Algorithm.RING},
])  # fmt: skip
def test_where_windows_cannot_be_ranks_send_messages(change: dict[str, object]) -> None:
    options = windows_of(2)
    assert window_size(Mesh(4), options) == 2
    assert window_size(Mesh(4), replace(options, **change)) == 1  # type: ignore[arg-type]  # by name


def test_only_equal_replicas_share_a_window() -> None:
    assert planned(Mesh(2)).is_shared
    assert not planned(Mesh(tp=2)).is_shared
    averaging = PlanOptions(strategy=Strategy.AVERAGING, algorithm=Algorithm.SHARED_WINDOW)
    assert not uses_window(Mesh(2), averaging)


@pytest.mark.parametrize(
    ("mesh", "options", "ranks_per_node", "message"),
    [
        (Mesh(4), WINDOW, 2, "algorithm shared_window needs all 4 replicas on one node, got 2 of them"),
        (Mesh(4), WINDOW, 3, "algorithm shared_window needs all 4 replicas on one node, got 3 of them"),
        (Mesh(2, 2), WINDOW, 3, "algorithm shared_window needs all 2 replicas on one node, got 1 of them"),
        (Mesh(2, 2), WINDOW, 2, "algorithm shared_window needs all 2 replicas on one node, got 1 of them"),
        (Mesh(2), PlanOptions(algorithm=Algorithm.SHARED_WINDOW, device=DeviceKind.EMULATED), 2,
         "algorithm shared_window needs --device cpu, got emulated"),
    ],
)  # fmt: skip
def test_replicas_without_common_memory_are_refused(
    mesh: Mesh, options: PlanOptions, ranks_per_node: int, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check_placement(mesh, options, ranks_per_node)
    assert str(caught.value).startswith(message)


def test_stages_may_be_on_other_nodes() -> None:
    check_placement(Mesh(1, 4), WINDOW, 1)
    check_placement(Mesh(2, 1, 1), WINDOW, 2)
