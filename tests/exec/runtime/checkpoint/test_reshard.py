"""Resuming under another plan: the same weights, whatever the mesh was and is."""

import tempfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import ModelFileError, UsageError
from exec.network.modules import BatchNorm2d, Conv2d, Flatten, Linear, ReLU
from exec.network.network import build, mlp
from exec.plan.layout import check_mesh
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.runtime.checkpoint.manifest import Role
from exec.runtime.checkpoint.reshard import check_coverage, owns_shard, read_network
from exec.runtime.checkpoint.shard import Held
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload
from tests.exec.random_networks import small_networks
from tests.exec.random_plans import factorisations
from tests.exec.runtime.checkpoint.drawn_state import Training, arrays, held_by, progress_at


def fits(workload: Workload, mesh: Mesh, stages: tuple[int, ...] = ()) -> bool:
    """Say whether the network, cut at ``stages``, admits ``mesh``."""
    try:
        check_mesh(replace(workload, global_batch=mesh.dp), mesh, PlanOptions(stages=stages))
    except UsageError:
        return False
    return True


@st.composite
def trainings(draw: st.DrawFn) -> tuple[Training, Training]:
    """Draw a network and two meshes of 1 to 8 ranks for it, cut into stages anywhere."""
    widths = draw(st.lists(st.integers(2, 9), min_size=2, max_size=6))
    network = draw(st.one_of(st.just(mlp(*widths)), small_networks()))
    workload = Workload(network, 8, draw(st.sampled_from([4, 8])), draw(st.booleans()))
    meshes = [
        draw(st.sampled_from([mesh for mesh in factorisations(ranks) if fits(workload, mesh)]))
        for ranks in draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    ]
    old, new = (Training(mesh, workload, cuts=draw(cuts(workload, mesh))) for mesh in meshes)
    return old, new


def cuts(workload: Workload, mesh: Mesh) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw the first nodes of all stages but the first, or none: stages are balanced."""
    found = combinations(workload.network.stage_starts[1:], mesh.pp - 1)
    return st.sampled_from([(), *(each for each in found if each and fits(workload, mesh, each))])


@given(trainings())
@settings(max_examples=40, deadline=None)
def test_any_mesh_goes_on_from_any_other_with_the_same_bits(
    pair: tuple[Training, Training],
) -> None:
    old, new = pair
    with tempfile.TemporaryDirectory() as folder:
        old.write_steps(Path(folder), [5])
        assert new.is_right(new.find(Path(folder)))


def write_drifted(directory: Path, training: Training) -> None:
    """Write a checkpoint in which each replica's weights are its own: those of step ``dp_rank``."""

    def body(wire: Transport) -> None:
        dp_rank = training.mesh.coordinates(wire.rank)[0]
        store = training.begin(directory, wire)
        store.write(progress_at(9), held_by(training.buffers(wire.rank, dp_rank)), {})

    run_threads(training.mesh.world_size, body)


def test_replicas_that_differ_come_back_each_as_it_was_under_the_same_plan(tmp_path: Path) -> None:
    training = Training(Mesh(3, 2, 1))
    write_drifted(tmp_path, training)
    found = training.find(tmp_path)

    def body(wire: Transport) -> None:
        expected = training.buffers(wire.rank, training.mesh.coordinates(wire.rank)[0])
        restored = training.restored(found, wire)
        assert restored.parameters.tobytes() == expected.parameters.tobytes()
        assert restored.velocity is not None
        assert expected.velocity is not None
        assert restored.velocity.tobytes() == expected.velocity.tobytes()

    run_threads(6, body)


@pytest.mark.parametrize(
    "other",
    [Training(Mesh(1, 2, 1)), Training(Mesh(2, 1, 2)), Training(Mesh(3, 2, 1), strategy="other")],
    ids=["fewer ranks", "another mesh", "another strategy"],
)
def test_replicas_that_differ_are_averaged_in_float64_under_another_plan(
    tmp_path: Path, other: Training
) -> None:
    training = Training(Mesh(3, 2, 1))
    write_drifted(tmp_path, training)
    loaded = other.loaded(other.find(tmp_path))
    for which in range(2):
        replicas = zip(*(arrays(training.weights(r)[which]) for r in range(3)), strict=True)
        expected = [np.mean(each, axis=0, dtype=np.float64).astype("f4") for each in replicas]
        for got, want in zip(loaded[which], expected, strict=True):
            np.testing.assert_array_equal(got, want)


def write_slices(directory: Path, training: Training, stops: tuple[int, ...]) -> None:
    """Write a checkpoint in which each rank but the last holds one slice, and the last nothing."""

    def body(wire: Transport) -> None:
        buffers = training.buffers(wire.rank, 3)
        start, stop = (0, *stops)[wire.rank : wire.rank + 2]
        assert buffers.velocity is not None
        held = Held(buffers.parameters[start:stop], buffers.velocity[start:stop], start=start)
        if wire.rank == wire.size - 1:
            held = Held(buffers.parameters[:0], None, Role.NONE)
        training.begin(directory, wire).write(progress_at(3), held, {})

    run_threads(training.mesh.world_size, body)


def test_slices_are_put_together_and_ranks_without_weights_do_not_count(tmp_path: Path) -> None:
    training = Training(Mesh(dp=4))
    total = training.workload.num_parameters
    write_slices(tmp_path, training, (20, 20, total, total))
    assert Training(Mesh(1, 3, 1)).is_right(Training().find(tmp_path))


def test_a_slice_comes_back_to_the_rank_that_wrote_it(tmp_path: Path) -> None:
    training = Training(Mesh(dp=2))
    total = training.workload.num_parameters
    write_slices(tmp_path, training, (total, total))
    manifest = training.find(tmp_path).manifest
    buffers = training.buffers(0)
    assert owns_shard(manifest, training.plan, 0, held_by(buffers))
    assert owns_shard(manifest, training.plan, 1, Held(buffers.parameters[:0], None, Role.NONE))
    assert not owns_shard(manifest, training.plan, 1, held_by(buffers))
    assert not owns_shard(manifest, Training(Mesh(dp=1)).plan, 0, held_by(buffers))


@pytest.mark.parametrize("stops", [(20, 30, 30), (40, 20, 20), (0, 0, 0)])
def test_weights_that_no_shard_holds_are_noticed(tmp_path: Path, stops: tuple[int, ...]) -> None:
    training = Training(Mesh(dp=3))
    write_slices(tmp_path, training, stops)
    with pytest.raises(Exception, match=r"stage 0, tp_rank 0 must hold 74 parameters, got them up"):
        training.find(tmp_path)


def test_a_gap_between_slices_is_noticed(tmp_path: Path) -> None:
    training = Training(Mesh(dp=3))
    total = training.workload.num_parameters
    write_slices(tmp_path, training, (20, total, total))
    manifest = training.find(tmp_path).manifest
    late = manifest.shards[1].model_copy(update={"start": 21})
    gapped = manifest.model_copy(update={"shards": [manifest.shards[0], late, manifest.shards[2]]})
    with pytest.raises(ModelFileError, match=r"must hold 74 parameters, got them up to 20"):
        check_coverage(gapped, training.workload)


def test_equal_float64_replicas_keep_their_bits_whatever_their_number(tmp_path: Path) -> None:
    training = Training(Mesh(dp=7), Workload(mlp(6, 5, 4, 3), 8, 8, False))
    training.write_steps(tmp_path, [5])
    found = training.find(tmp_path)
    whole = read_network(found.folder, found.manifest, training.workload)
    expected = arrays(training.weights(5)[0])
    assert [a.tobytes() for a in arrays(whole.weights)] == [a.tobytes() for a in expected]
    assert whole.velocity is None


IMAGES = build(
    "images",
    (2, 4, 4),
    [
        ("conv1", Conv2d(5, (3, 3), padding=(1, 1), has_bias=False), ()),
        ("bn1", BatchNorm2d(), ()),
        ("relu1", ReLU(), ()),
        ("conv2", Conv2d(3, (3, 3), padding=(1, 1)), ()),
        ("bn2", BatchNorm2d(), ()),
        ("flatten", Flatten(), ()),
        ("fc1", Linear(4), ()),
        ("fc2", Linear(3), ()),
    ],
)
NORMALISED = Workload(IMAGES, 8, 4, True)


@pytest.mark.parametrize("other", [Mesh(1, 1, 1), Mesh(1, 2, 1), Mesh(1, 1, 2), Mesh(2, 2, 1), Mesh(1, 3, 1)], ids=str)  # fmt: skip
@pytest.mark.parametrize("mesh", [Mesh(2, 1, 2), Mesh(1, 2, 2), Mesh(1, 4, 1)], ids=str)
def test_convolutions_and_statistics_go_over_to_any_mesh(
    tmp_path: Path, mesh: Mesh, other: Mesh
) -> None:
    training = Training(mesh, NORMALISED)
    training.write_steps(tmp_path, [4])
    assert Training(other, NORMALISED).is_right(training.find(tmp_path))


def test_other_cuts_of_one_mesh_are_another_plan(tmp_path: Path) -> None:
    old = Training(Mesh(pp=2), NORMALISED, cuts=(3,))
    new = Training(Mesh(pp=2), NORMALISED, cuts=(7,))
    old.write_steps(tmp_path, [4])
    found = new.find(tmp_path)
    assert found.manifest.plan.stages == (3,)
    assert not owns_shard(found.manifest, new.plan, 0, held_by(new.buffers(0)))
    assert new.is_right(found)


def test_a_stage_of_the_same_size_of_other_layers_is_not_taken_for_the_own(tmp_path: Path) -> None:
    workload = Workload(mlp(4, 4, 4, 4, 4), 8, 4, True)
    old, new = (Training(Mesh(pp=3), workload, cuts=cuts) for cuts in ((2, 4), (4, 6)))
    assert old.buffers(1).parameters.size == new.buffers(1).parameters.size
    old.write_steps(tmp_path, [4])
    assert new.is_right(new.find(tmp_path))


def test_stages_balanced_or_named_alike_are_one_plan(tmp_path: Path) -> None:
    balanced = Training(Mesh(pp=2), NORMALISED)
    named = Training(Mesh(pp=2), NORMALISED, cuts=balanced.plan.stages)
    balanced.write_steps(tmp_path, [4])
    assert named.plan == named.find(tmp_path).manifest.plan


def write_first_replica(directory: Path, training: Training) -> None:
    """Write a checkpoint with the weights of the first replica, and the statistics of all."""

    def body(wire: Transport) -> None:
        dp_rank = training.mesh.coordinates(wire.rank)[0]
        buffers = training.buffers(wire.rank, 0)
        buffers.stats[...] += dp_rank
        held = held_by(buffers)
        if dp_rank:
            held = Held(buffers.parameters[:0], None, Role.NONE, stats=buffers.stats)
        training.begin(directory, wire).write(progress_at(9), held, {})

    run_threads(training.mesh.world_size, body)


def test_replicas_without_weights_of_their_own_get_their_own_statistics_back(
    tmp_path: Path,
) -> None:
    training = Training(Mesh(3, 2, 1), NORMALISED)
    write_first_replica(tmp_path, training)
    found = training.find(tmp_path)

    def body(wire: Transport) -> None:
        expected = training.buffers(wire.rank, 0)
        restored = training.restored(found, wire)
        assert restored.parameters.tobytes() == expected.parameters.tobytes()
        expected.stats[...] += training.mesh.coordinates(wire.rank)[0]
        assert restored.stats.tobytes() == expected.stats.tobytes()

    run_threads(6, body)


def test_statistics_of_replicas_are_averaged_under_another_plan(tmp_path: Path) -> None:
    training = Training(Mesh(3, 2, 1), NORMALISED)
    write_first_replica(tmp_path, training)
    other = Training(Mesh(2, 1, 2), NORMALISED)
    loaded = other.loaded(other.find(tmp_path))
    drawn = training.weights(0)[0].stats
    expected = np.mean([drawn + np.float32(each) for each in range(3)], axis=0, dtype=np.float64)
    np.testing.assert_array_equal(loaded[0][1], expected.astype("f4"))


@pytest.mark.parametrize("count", [0, 5])
def test_statistics_that_no_shard_holds_are_noticed(tmp_path: Path, count: int) -> None:
    training = Training(Mesh(), NORMALISED)

    def body(wire: Transport) -> None:
        buffers = training.buffers(wire.rank, 1)
        stats = buffers.stats[:count] if count else None
        held = Held(buffers.parameters, buffers.velocity, stats=stats)
        training.begin(tmp_path, wire).write(progress_at(3), held, {})

    run_threads(1, body)
    told = "5" if count else "none"
    with pytest.raises(Exception, match=rf"must hold 16 running statistics, got {told}"):
        training.find(tmp_path)
