"""The store: what is kept, what is refused before any work, and what is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exec.errors import StepcastError
from exec.network.network import mlp
from exec.program.mesh import Mesh
from exec.runtime.checkpoint.durable import UNFINISHED, remove_checkpoint
from exec.runtime.checkpoint.find import is_finished
from exec.runtime.checkpoint.shard import Held
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload
from tests.exec.runtime.checkpoint.drawn_state import Training, held_by, progress_at

TRAINING = Training(Mesh(2, 2, 1))


def on_ranks(body: Callable[[Transport], None], training: Training = TRAINING) -> None:
    """Run ``body`` on every rank."""
    run_threads(training.mesh.world_size, body)


def names(directory: Path) -> list[str]:
    """Return all names in ``directory``, and in its folders, sorted."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def folders(directory: Path) -> list[str]:
    """Return the names in ``directory``."""
    return sorted(path.name for path in directory.iterdir())


def test_progress_plan_and_state_come_back_exactly(tmp_path: Path) -> None:
    TRAINING.write_steps(tmp_path, [21])
    manifest = TRAINING.find(tmp_path).manifest
    assert manifest.progress == progress_at(21)
    assert manifest.plan == TRAINING.plan
    assert [shard.state for shard in manifest.shards] == [{"loss_sums": [7.0]}] * 4
    assert [(s.dp_rank, s.stage, s.tp_rank) for s in manifest.shards] == [
        (0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0),
    ]  # fmt: skip
    assert {"numpy", "python", "date"} <= manifest.provenance.keys()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay_and_nothing_else_is_left(tmp_path: Path, keep: int) -> None:
    TRAINING.write_steps(tmp_path, range(1, 6), keep=keep)
    kept = [f"step-{step:09d}" for step in range(6 - keep, 6)]
    files = [f"rank-{rank:05d}.safetensors" for rank in range(4)]
    expected = [*kept, *(f"{name}/{file}" for name in kept for file in ["manifest.json", *files])]
    assert names(tmp_path) == sorted(expected)


def test_what_an_unfinished_write_left_is_ignored_and_cleaned_by_the_next(tmp_path: Path) -> None:
    TRAINING.write_steps(tmp_path, [1, 2])
    for step in (3, 9):
        left = tmp_path / f"step-{step:09d}"
        left.mkdir()
        (left / f"rank-00007.safetensors{UNFINISHED}").write_text("half a shard")
    (tmp_path / "notes").mkdir()

    def body(wire: Transport) -> None:
        store, found = TRAINING.resume(tmp_path, wire)
        assert found.refused == ()
        assert found.manifest.progress.num_steps == 2
        TRAINING.write(store, 3)

    on_ranks(body)
    assert folders(tmp_path) == ["notes", "step-000000002", "step-000000003"]
    assert TRAINING.is_right(TRAINING.find(tmp_path))


def test_a_new_training_cleans_what_an_unfinished_one_left(tmp_path: Path) -> None:
    (tmp_path / "step-000000001").mkdir()
    (tmp_path / "step-000000001" / "rank-00000.safetensors").write_text("a whole shard, perhaps")
    TRAINING.write_steps(tmp_path, [5])
    assert folders(tmp_path) == ["step-000000005"]


def test_a_removal_begins_with_the_manifest_so_that_a_kill_leaves_nothing_to_refuse(
    tmp_path: Path,
) -> None:
    TRAINING.write_steps(tmp_path, [1])
    folder = tmp_path / "step-000000001"
    had_manifest = []
    remove_checkpoint(folder, lambda _: had_manifest.append(is_finished(folder)))
    assert had_manifest == [True, False]
    assert folders(tmp_path) == []


@pytest.mark.parametrize("keep", [2, 3])
def test_a_refused_checkpoint_is_overtaken_and_never_chosen_again(
    tmp_path: Path, keep: int
) -> None:
    TRAINING.write_steps(tmp_path, [10, 20, 30], keep=3)
    shard = tmp_path / "step-000000030" / "rank-00001.safetensors"
    hidden = shard.rename(tmp_path / "hidden")

    def body(wire: Transport) -> None:
        store, found = TRAINING.resume(tmp_path, wire, keep=keep)
        assert [shard.name in message for message in found.refused] == [True]
        TRAINING.write(store, 25)

    on_ranks(body)
    older = ["step-000000010"] * (keep == 3)
    assert folders(tmp_path) == [hidden.name, *older, "step-000000020", "step-000000025"]


def test_older_ones_stay_until_there_are_enough_that_are_known_to_be_good(tmp_path: Path) -> None:
    TRAINING.write_steps(tmp_path, [10, 20], keep=3)

    def body(wire: Transport) -> None:
        store, _ = TRAINING.resume(tmp_path, wire, keep=3)
        TRAINING.write(store, 30)
        wire.gather_objects(None)
        assert len(folders(tmp_path)) == 3
        wire.gather_objects(None)
        TRAINING.write(store, 40)

    on_ranks(body)
    assert folders(tmp_path) == [f"step-{step:09d}" for step in (20, 30, 40)]


def test_the_checkpoint_just_resumed_from_is_not_written_again(tmp_path: Path) -> None:
    TRAINING.write_steps(tmp_path, [10])
    before = names(tmp_path), (tmp_path / "step-000000010" / "manifest.json").read_bytes()

    def body(wire: Transport) -> None:
        store, _ = TRAINING.resume(tmp_path, wire)
        TRAINING.write(store, 10)
        assert store.written == []

    on_ranks(body)
    assert before == (names(tmp_path), (tmp_path / "step-000000010" / "manifest.json").read_bytes())


def test_each_write_tells_its_cost(tmp_path: Path) -> None:
    def body(wire: Transport) -> None:
        store = TRAINING.begin(tmp_path, wire)
        for step in (1, 2):
            TRAINING.write(store, step)
        assert [cost.num_steps for cost in store.written] == [1, 2]
        sizes = wire.gather_objects(store.written[1].nbytes)
        assert sizes[wire.rank] == (tmp_path / "step-000000002" / f"rank-{wire.rank:05d}.safetensors").stat().st_size  # fmt: skip
        assert store.written[1].total_nbytes == sum(sizes)
        assert store.written[1].time_s > 0

    on_ranks(body)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["parameters", "velocity", "state", "epochs"])
def test_what_is_not_finite_is_not_written(tmp_path: Path, where: str, number: float) -> None:
    TRAINING.write_steps(tmp_path, [1])

    def body(wire: Transport) -> None:
        store, _ = TRAINING.resume(tmp_path, wire)
        held, progress, state = held_by(TRAINING.buffers(wire.rank, 2)), progress_at(2), {}
        if wire.rank == 3 and where in held.tensors:
            held.tensors[where][1] = number
        if wire.rank == 3 and where == "state":
            state = {"loss_sum": number}
        if where == "epochs":
            progress = progress.model_copy(update={"epochs": [{"loss": number}]})
        store.write(progress, held, state)

    with pytest.raises(StepcastError, match=r"finite.*use a smaller learning-rate"):
        on_ranks(body)
    found = TRAINING.find(tmp_path)
    assert found.manifest.progress.num_steps == 1
    assert found.refused == ()


def test_a_new_training_refuses_a_folder_that_holds_checkpoints(tmp_path: Path) -> None:
    TRAINING.write_steps(tmp_path, [4])
    with pytest.raises(StepcastError, match=r"^checkpoints must go to a folder that holds none, got .*holds one of step 4; resume"):  # fmt: skip
        TRAINING.write_steps(tmp_path, [1])


@pytest.mark.parametrize("is_there", [False, True])
def test_resuming_from_nothing_is_one_message(tmp_path: Path, is_there: bool) -> None:
    directory = tmp_path / "checkpoints"
    if is_there:
        (directory / "step-000000001").mkdir(parents=True)
    expected = "got no finished one" if is_there else "No such file or directory"
    with pytest.raises(
        StepcastError, match=rf"^[^\n]*must be in [^\n]*checkpoints[^\n]*{expected}$"
    ):
        on_ranks(lambda wire: TRAINING.resume(directory, wire) and None)


@pytest.mark.parametrize(
    "other, message",
    [
        (replace(TRAINING, workload=replace(TRAINING.workload, network=mlp(6, 5, 3))),
         r"^net must be 6-5-4-3, that of the checkpoint .*step-000000004, got 6-5-3; "),
        (replace(TRAINING, workload=replace(TRAINING.workload, network=replace(mlp(6, 5, 3), name="6-5-4-3"))),
         r"^net 6-5-4-3 must have the layers that it has in the checkpoint .*step-000000004, digest .*; "),
        (replace(TRAINING, workload=replace(TRAINING.workload, itemsize=8)),
         r"^dtype must be float32, that of the checkpoint .*, got float64; "),
        (replace(TRAINING, workload=replace(TRAINING.workload, has_momentum=False)),
         r"^momentum must be greater than 0, that of the checkpoint .*, got 0; "),
    ],
    ids=["net", "layers", "dtype", "momentum"],
)  # fmt: skip
def test_another_network_is_refused_and_both_are_named(
    tmp_path: Path, other: Training, message: str
) -> None:
    TRAINING.write_steps(tmp_path, [3, 4])
    with pytest.raises(StepcastError, match=message):
        on_ranks(lambda wire: other.resume(tmp_path, wire) and None)


@pytest.mark.parametrize("keep", [0, -1])
def test_keep_must_be_positive(tmp_path: Path, keep: int) -> None:
    with pytest.raises(StepcastError, match=f"^keep must be at least 1, got {keep}"):
        TRAINING.write_steps(tmp_path, [1], keep=keep)
    with pytest.raises(StepcastError, match=f"^keep must be at least 1, got {keep}"):
        on_ranks(lambda wire: TRAINING.resume(tmp_path, wire, keep=keep) and None)


def test_a_folder_that_the_ranks_do_not_share_is_refused(tmp_path: Path) -> None:
    def body(wire: Transport) -> None:
        own = tmp_path / f"node-{wire.rank}"
        store = TRAINING.begin(own, wire)
        if wire.rank:  # where rank 0 is another node, its folder is not seen here
            (own / "step-000000001").mkdir()
        TRAINING.write(store, 1)

    with pytest.raises(StepcastError, match=r"folder that all ranks share.*rank-00001"):
        on_ranks(body)


@pytest.mark.parametrize("dtype, has_velocity", [("float64", True), ("float32", False)])
def test_what_no_reader_would_accept_is_not_written(
    tmp_path: Path, dtype: str, has_velocity: bool
) -> None:
    training = Training(Mesh(), Workload(mlp(6, 3), 8, 4, True))
    numbers = np.zeros(training.workload.num_parameters, dtype)

    def body(wire: Transport) -> None:
        held = Held(numbers, numbers if has_velocity else None)
        training.begin(tmp_path, wire).write(progress_at(1), held, {})

    with pytest.raises(ValueError, match="must hold float32 parameters and velocity"):
        on_ranks(body, training)
