"""Laws of a training session: what it reads, what it holds, what it reports."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from exec.plan.collectives import scratch_elements
from exec.plan.layout import layout_of
from exec.plan.samples import sample_starts
from exec.plan.schedule import num_slots
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Compute, Kernel, Lane
from exec.program.peers import split_size
from exec.runtime.session import FIRST_TIMED, TIMED_EVERY, Session
from exec.transport.threads import ThreadTransport, run_threads
from tests.exec.random_plans import Case, cases
from tests.exec.runtime.equivalence import dataset_of, plan_of, serial

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
TWO = Case.of("6-5-4", 4, Mesh(dp=2))


def dense_weights(session: Session) -> list[NDArray[np.float64]]:
    """Return the weights and biases of each dense layer."""
    found = [node for _, node in session.weights().nodes()]
    return [each for node in found for each in (node.weight, node.bias) if each is not None]


@SETTINGS
@given(cases(ranks=range(1, 5)))
def test_every_epoch_visits_every_sample_once_in_an_order_of_its_own(case: Case) -> None:
    dataset = dataset_of(case)

    def body(wire: ThreadTransport) -> list[list[int]]:
        session = Session(plan_of(case, 0.1, 0.0), dataset, wire)
        return [np.concatenate(list(session.batches(epoch))).tolist() for epoch in (1, 2)]

    orders = run_threads(case.mesh.world_size, body)
    for first, second in orders:
        assert sorted(first) == sorted(second) == list(range(len(dataset.train_labels)))
        assert first != second or len(first) < 6  # few samples may come in the same order twice
    # All ranks agree on the order without a message.
    assert all(order == orders[0] for order in orders)


@SETTINGS
@given(cases())
def test_microbatches_of_all_replicas_partition_the_batch(case: Case) -> None:
    mesh, batch = case.mesh, case.workload.global_batch
    for each in {batch, batch - 1, 1} - {0}:
        taken = []
        for rank in range(0, mesh.world_size, mesh.pp * mesh.tp):
            dp_rank = mesh.coordinates(rank)[0]
            rows = split_size(each, mesh.dp, dp_rank)
            starts = sample_starts(mesh.dp, case.options, each, dp_rank)
            for i, start in enumerate(starts):
                taken += range(start, start + split_size(rows, case.options.num_microbatches, i))
        assert taken == list(range(each))


@SETTINGS
@given(cases(ranks=range(1, 5)))
def test_buffers_are_exactly_what_the_layout_lists(case: Case) -> None:
    workload, mesh, options = case.workload, case.mesh, case.options
    dataset = dataset_of(case)
    plan = replace(plan_of(case, 0.1, 0.5), workload=workload)

    def body(wire: ThreadTransport) -> tuple[int, int]:
        session = Session(plan, dataset, wire)
        return session.buffers.nbytes, scratch_elements(session.program)

    for rank, (nbytes, scratch) in enumerate(run_threads(mesh.world_size, body)):
        dp_rank, stage, tp_rank = mesh.coordinates(rank)
        layout = layout_of(workload.network, mesh, stage, tp_rank)
        slots = num_slots(options.schedule, stage, mesh.pp, options.num_microbatches)
        rows = split_size(
            split_size(workload.global_batch, mesh.dp, dp_rank), options.num_microbatches, 0
        )
        elements = layout.num_parameters * (3 if workload.has_momentum else 2)
        elements += slots * sum(layout.slot_elements(rows).values())
        elements += sum(layout.shared_elements(rows).values())
        assert nbytes == 8 * (elements + scratch)
        assert nbytes == case.program.role_of(rank).nbytes + 8 * scratch


def test_same_seed_trains_to_the_same_bits() -> None:
    dataset = dataset_of(TWO)

    def body(wire: ThreadTransport) -> bytes:
        session = Session(plan_of(TWO, 0.1, 0.9), dataset, wire)
        session.run_epoch(1)
        return session.buffers.parameters.tobytes()

    assert run_threads(2, body) == run_threads(2, body)


def test_other_seed_starts_and_reads_otherwise() -> None:
    dataset, plan = dataset_of(TWO), plan_of(TWO, 0.1, 0.0)

    def body(wire: ThreadTransport) -> tuple[bytes, bytes]:
        sessions = [Session(replace(plan, seed=seed), dataset, wire) for seed in (1, 2)]
        assert sessions[0].buffers.parameters.tobytes() != sessions[1].buffers.parameters.tobytes()
        first, second = (np.concatenate(list(session.batches(1))).tobytes() for session in sessions)
        return first, second

    for first, second in run_threads(2, body):
        assert first != second


@pytest.mark.parametrize("algorithm", [Algorithm.LIBRARY, Algorithm.RING])
def test_timed_steps_leave_a_span_for_every_op_that_takes_time(algorithm: Algorithm) -> None:
    case = Case.of("6-5-4", 2, Mesh(2, 2, 1), num_microbatches=1, algorithm=algorithm)
    dataset = dataset_of(replace(case, workload=replace(case.workload, global_batch=4)))

    def body(wire: ThreadTransport) -> None:
        session = Session(plan_of(case, 0.1, 0.0), dataset, wire)
        indices = np.arange(2)
        session.do_step(indices)
        assert session.spans == []
        for _ in range(2):
            session.do_step(indices, is_timed=True)
        names = [span.name for span in session.spans if span.lane is Lane.COMPUTE]
        for op in session.program.ops(wire.rank):
            if isinstance(op, Compute):
                assert names.count(op.id) == 2
        moved = [span for span in session.spans if span.lane is Lane.COMM]
        assert any(span.name == "bucket0" for span in moved) is (algorithm is Algorithm.LIBRARY)
        assert any(span.name == "accumulate" for span in moved) is (algorithm is Algorithm.RING)
        for lane in Lane:
            spans = [span for span in session.spans if span.lane is lane]
            assert all(span.rank == wire.rank and span.end_s >= span.start_s for span in spans)
            # A lane does one thing at a time.
            assert all(a.end_s <= b.start_s for a, b in pairwise(spans))

    run_threads(4, body)


def test_timed_steps_are_left_out_of_the_step_times() -> None:
    case = Case.of("3-2", 1, Mesh())
    dataset = dataset_of(Case.of("3-2", TIMED_EVERY, Mesh()))
    num_steps = len(dataset.train_labels)
    assert num_steps > TIMED_EVERY

    def body(wire: ThreadTransport) -> None:
        session = Session(plan_of(case, 0.1, 0.0), dataset, wire)
        progress: list[int] = []
        session.run_epoch(1, progress.append)
        num_timed = sum(span.name.startswith(Kernel.UPDATE) for span in session.spans)
        assert session.num_timed == num_timed == -(-(num_steps - FIRST_TIMED) // TIMED_EVERY)
        assert len(session.step_times_s()) == num_steps - num_timed
        assert progress == sorted(progress)
        assert progress[0] == 1

    run_threads(1, body)


def test_accuracy_is_the_share_of_right_answers() -> None:
    dataset = dataset_of(TWO)

    def body(wire: ThreadTransport) -> None:
        session = Session(plan_of(TWO, 0.1, 0.0), dataset, wire)
        a = dataset.test_images.T.astype(np.float64)
        w0, b0, w1, b1 = dense_weights(session)
        logits = w1 @ (1 / (1 + np.exp(-(w0 @ a + b0[:, None])))) + b1[:, None]
        share = (logits.argmax(axis=0) == dataset.test_labels).mean()
        # Both count whole samples and divide once.
        assert session.test_accuracy() == share

    run_threads(2, body)


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(dp=3), Mesh(pp=2), Mesh(tp=2)], ids=str)
def test_loss_of_an_epoch_is_the_mean_over_its_samples(mesh: Mesh) -> None:
    # At a rate of 1e-30 no weight moves, so all samples meet the first weights; the last batch is
    # shorter than the others, and must count by its samples.
    case = Case.of("6-5-4", 7, mesh, num_microbatches=2)
    dataset = dataset_of(Case.of("6-5-4", 9, mesh))
    assert 0 < len(dataset.train_labels) % 7 < 6

    def body(wire: ThreadTransport) -> tuple[float, float]:
        session = Session(plan_of(case, 1e-30, 0.0), dataset, wire)
        w0, b0, w1, b1 = dense_weights(session)
        a = dataset.train_images.T.astype(np.float64)
        logits = w1 @ (1 / (1 + np.exp(-(w0 @ a + b0[:, None])))) + b1[:, None]
        p = np.exp(logits) / np.exp(logits).sum(axis=0)
        expected = -np.log(p[dataset.train_labels, np.arange(a.shape[1])]).mean()
        return session.run_epoch(1).loss, float(expected)

    for loss, expected in run_threads(mesh.world_size, body):
        # Fewer than 100 roundings of 1.1e-16 of numbers of about one.
        assert loss == pytest.approx(expected, rel=0, abs=1.1e-14)


def test_loss_falls_on_what_can_be_learnt() -> None:
    # One sample per class, told apart by one pixel each; gradient descent must get it.
    case = Case.of("4-4", 4, Mesh(dp=2))
    dataset = replace(
        dataset_of(case), train_images=np.eye(4, dtype=np.float32), train_labels=np.arange(4),
        test_images=np.eye(4, dtype=np.float32), test_labels=np.arange(4),
    )  # fmt: skip

    def body(wire: ThreadTransport) -> None:
        session = Session(plan_of(case, 1.0, 0.0), dataset, wire)
        epochs = [session.run_epoch(number) for number in range(1, 51)]
        losses = [epoch.loss for epoch in epochs]
        # A convex loss with a rate below 2 / curvature: every step goes down.
        assert losses == sorted(losses, reverse=True)
        assert epochs[-1].test_accuracy == 1.0

    run_threads(2, body)


def test_serial_plan_needs_no_scratch_and_no_second_rank() -> None:
    plan = serial(plan_of(TWO, 0.1, 0.0))
    session = Session(plan, dataset_of(TWO), run_threads(1, lambda wire: wire)[0])
    assert session.buffers.arrays["scratch"].size == 0
    session.run_epoch(1)
