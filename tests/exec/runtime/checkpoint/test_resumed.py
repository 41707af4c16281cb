"""A resumed training: bit-equal under the same plan; the same weights and place under another."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import StepcastError
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.runtime.checkpoint.find import newest_good
from exec.runtime.checkpoint.reshard import read_network
from exec.runtime.training_plan import TrainingPlan
from exec.transport.threads import run_threads
from tests.conftest import Launch
from tests.exec.runtime.checkpoint.resumed import (
    EPOCHS,
    NORMALISED,
    NUM_SAMPLES,
    Trained,
    cut_back,
    numbers,
    plan_of,
    results,
    steps_of,
    train,
)

# Eleven steps an epoch, a checkpoint every third: 3, 6, 9, 12, ... and 22 at the end.
SAME = {
    "serial": plan_of(Strategy.SERIAL, 1),
    "data": plan_of(Strategy.DATA, 3),
    "hybrid": plan_of(Strategy.HYBRID, 4, mesh=Mesh(2, 2, 1), num_microbatches=2),
    "tensor": plan_of(Strategy.TENSOR, 2, momentum=0.0),
    "averaging amid rounds": plan_of(Strategy.AVERAGING, 3, average_every=4),
    "averaging after rounds": plan_of(Strategy.AVERAGING, 2, momentum=0.0, average_every=3),
    "averaging every epoch": plan_of(Strategy.AVERAGING, 2, average_every=0),
    "master_round_trip amid rounds": plan_of(Strategy.MASTER_ROUND_TRIP, 3, average_every=4),
    "master_round_trip after rounds": plan_of(Strategy.MASTER_ROUND_TRIP, 4, average_every=3),
    "master_broadcast amid rounds": plan_of(Strategy.MASTER_BROADCAST, 3, average_every=5),
    "master_broadcast after rounds": plan_of(Strategy.MASTER_BROADCAST, 3, average_every=1),
    "server": plan_of(Strategy.SERVER, 4, servers=2),
    "server without momentum": plan_of(Strategy.SERVER, 3, momentum=0.0),
    "async_server, one worker": plan_of(Strategy.ASYNC_SERVER, 3, servers=2),
    "shared_windows": plan_of(Strategy.SHARED_WINDOWS, 3),
    "shared_windows without momentum": plan_of(Strategy.SHARED_WINDOWS, 2, momentum=0.0),
    "windows of two": plan_of(Strategy.DATA, 4, algorithm=Algorithm.HIERARCHICAL, ranks_per_node=2),
    "shared_lock, one trainer": plan_of(Strategy.SHARED_LOCK, 1),
    "hogwild, one trainer": plan_of(Strategy.HOGWILD, 1, momentum=0.0),
}
NORMALISED_SAME = {
    f"normalised: {name}": replace(plan, workload=replace(plan.workload, network=NORMALISED))
    for name, plan in {
        "data, statistics of their own": plan_of(Strategy.DATA, 3),
        "data, shared statistics": plan_of(Strategy.DATA, 2, sync_batchnorm=True),
        "hybrid": plan_of(Strategy.HYBRID, 4, mesh=Mesh(2, 2, 1), num_microbatches=2),
        "hybrid, named stages": plan_of(Strategy.HYBRID, 2, mesh=Mesh(1, 2, 1), stages=(7,)),
        "tensor": plan_of(Strategy.TENSOR, 2, momentum=0.0),
        "krizhevsky": plan_of(Strategy.KRIZHEVSKY, 2),
        "averaging amid rounds": plan_of(Strategy.AVERAGING, 3, average_every=4),
        "master_broadcast amid rounds": plan_of(Strategy.MASTER_BROADCAST, 3, average_every=5),
        "server": plan_of(Strategy.SERVER, 4, servers=2),
        "shared_windows": plan_of(Strategy.SHARED_WINDOWS, 3),
        "shared_lock, one trainer": plan_of(Strategy.SHARED_LOCK, 1),
    }.items()
}


def on_ranks(plan: TrainingPlan, directory: Path, *, resumes: bool) -> list[Trained]:
    """Return what each rank, a thread, came to."""
    return run_threads(plan.mesh.world_size, lambda wire: train(plan, directory, wire, resumes=resumes))  # fmt: skip


@pytest.mark.parametrize("name", SAME | NORMALISED_SAME)
def test_under_the_same_plan_a_resumed_training_is_bit_equal(tmp_path: Path, name: str) -> None:
    plan = (SAME | NORMALISED_SAME)[name]
    whole = on_ranks(plan, tmp_path / "whole", resumes=False)
    written = steps_of(tmp_path / "whole")
    # Ranks that take tickets meet at multiples within each epoch, the others at those of all steps.
    has_tickets = plan.options.strategy is Strategy.ASYNC_SERVER
    assert written == (
        [3, 6, 9, 14, 17, 20, 21, 22] if has_tickets else [3, 6, 9, 12, 15, 18, 21, 22]
    )
    for step in written[1:]:
        cut_back(tmp_path / "whole", tmp_path / str(step), step)
        again = on_ranks(plan, tmp_path / str(step), resumes=True)
        assert again[0].checkpoints.record()["resumed_from_step"] == step
        for found, expected in zip(again, whole, strict=True):
            assert found.bits == expected.bits, step
            assert results(found) == results(expected), step


@pytest.mark.mpi
def test_over_mpi_a_resumed_training_is_bit_equal(tmp_path: Path, launch: Launch) -> None:
    done = launch(2, "tests.exec.runtime.checkpoint.resumed", str(tmp_path))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "the same bits on 2 ranks\n")


PLANS = [
    *SAME.values(),
    plan_of(Strategy.SHARED_LOCK, 2),
    plan_of(Strategy.HOGWILD, 3, momentum=0.0),
    plan_of(Strategy.ASYNC_SERVER, 3),
    plan_of(Strategy.DATA, 2, momentum=0.0),
    plan_of(Strategy.PIPELINE, 3, momentum=0.0),
]


def pairs(plans: list[TrainingPlan]) -> st.SearchStrategy[tuple[TrainingPlan, TrainingPlan]]:
    """Draw two of ``plans``."""
    return st.tuples(st.sampled_from(plans), st.sampled_from(plans))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from([PLANS, list(NORMALISED_SAME.values())]).flatmap(pairs), st.sampled_from([3, 9, 12, 18]))  # fmt: skip
def test_any_plan_goes_on_from_any_other_with_its_weights_at_its_place_in_the_data(
    pair: tuple[TrainingPlan, TrainingPlan], step: int
) -> None:
    old, new = pair
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        first = on_ranks(old, before, resumes=False)[0]
        cut_back(before, after, step)
        if old.workload.has_momentum != new.workload.has_momentum:
            with pytest.raises(
                StepcastError, match=r"^momentum must be .*, that of the checkpoint"
            ):
                on_ranks(new, after, resumes=True)
            return
        found = run_threads(1, lambda wire: newest_good(after, old.workload, old.dtype, wire))[0]
        whole = read_network(found.folder, found.manifest, old.workload)
        second = on_ranks(new, after, resumes=True)
        expected = numbers(whole.weights)
        is_drifted = old == new and new.options.strategy is Strategy.AVERAGING
        assert {each.resumed for each in second} == {expected} or is_drifted  # see the test above
        assert [each.epoch for each in second[0].epochs] == [1, 2]
        # Every sample of every epoch is taken once, over both halves.
        reached = found.manifest.progress
        seen = [turn for turn in first.turns if turn[0] < reached.epoch]
        in_epoch = [
            taken for epoch, turn in first.turns if epoch == reached.epoch for taken in turn
        ]
        seen += [(reached.epoch, in_epoch[: reached.epoch_samples]), *second[0].turns]
        for epoch in range(1, EPOCHS + 1):
            taken = [each for number, turn in seen for each in turn if number == epoch]
            assert sorted(taken) == list(range(NUM_SAMPLES))


def test_the_loss_of_an_epoch_resumed_under_another_plan_is_that_of_all_its_samples(
    tmp_path: Path,
) -> None:
    serial, data = SAME["serial"], SAME["data"]
    whole = on_ranks(serial, tmp_path / "whole", resumes=False)[0]
    cut_back(tmp_path / "whole", tmp_path / "cut", 6)
    again = on_ranks(data, tmp_path / "cut", resumes=True)[0]
    # Sharing reorders sums of at most 100 numbers of about one: 100 roundings of 1.1e-16 each.
    assert again.epochs[0].loss == pytest.approx(whole.epochs[0].loss, rel=0, abs=1.1e-14)


def test_an_epoch_planned_anew_from_the_middle_of_a_turn_is_bit_equal_when_resumed_again(
    tmp_path: Path,
) -> None:
    on_ranks(SAME["data"], tmp_path / "first", resumes=False)
    cut_back(tmp_path / "first", tmp_path / "second", 3)
    plan = plan_of(Strategy.AVERAGING, 2, average_every=2)
    plan = replace(plan, workload=replace(plan.workload, global_batch=4))
    # Three batches of six are 18 samples, which no turn of four ends at: rounds begin there anew.
    whole = on_ranks(plan, tmp_path / "second", resumes=True)
    assert [len(taken) for _, taken in whole[0].turns][:11] == [4] * 10 + [3]
    for step in (6, 9, 12):
        cut_back(tmp_path / "second", tmp_path / str(step), step)
        again = on_ranks(plan, tmp_path / str(step), resumes=True)
        for found, expected in zip(again, whole, strict=True):
            assert found.bits == expected.bits, step
            assert results(found) == results(expected), step
