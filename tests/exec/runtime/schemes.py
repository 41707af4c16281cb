"""The laws of the schemes by which replicas talk.

The laws themselves, for the tests on threads, and as a program for MPI:
``mpiexec -n P python -m tests.exec.runtime.schemes COUNT``.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import numpy as np

from exec.data.dataset import Dataset
from exec.network.network import mlp
from exec.plan.layout import layout_of
from exec.plan.strategy import MASTERS, SERVERS, SHARED, Strategy
from exec.program.check import check_program
from exec.program.mesh import Mesh
from exec.program.parse import parse_program
from exec.program.staleness import staleness
from exec.runtime.buffers import Buffers
from exec.runtime.comm import Queue, Wire
from exec.runtime.job import TransportName, run_job
from exec.runtime.kernels import Feed, KernelBinder
from exec.runtime.session import Session
from exec.runtime.step import bind_step
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload
from tests.exec.random_plans import Case, seeded_schemes
from tests.exec.runtime.equivalence import (
    ALL_STEPS,
    EPOCHS,
    Trained,
    dataset_of,
    flat_weights,
    plan_of,
    serial,
    tolerance,
    train,
)
from tests.exec.runtime.plain_schemes import (
    Flat,
    Indices,
    Oracle,
    Told,
    serve,
    start_of,
    tickets_of,
)


def scheme_plan(case: Case) -> TrainingPlan:
    """Return the plan of ``case`` at a rate of 0.1."""
    return plan_of(case, 0.1, 0.5 if case.workload.has_momentum else 0.0)


def whole_batches(dataset: Dataset, batch: int) -> Dataset:
    """Return ``dataset`` without its last, short batch."""
    kept = len(dataset.train_labels) // batch * batch
    images, labels = dataset.train_images[:kept], dataset.train_labels[:kept]
    return replace(dataset, train_images=images, train_labels=labels)


def orders_of(session: Session) -> list[Indices]:
    """Return the order of samples in each epoch."""
    return [np.concatenate(list(session.batches(epoch + 1))) for epoch in range(EPOCHS)]


def assert_as(case: Case, found: Trained, losses: object, weights: Flat) -> None:
    """Assert the weights and losses, within the tolerance of :mod:`equivalence`.

    Its bound is for gradients of a whole batch at rate 0.1; schemes split the same sum into more
    updates, and a mean of weights has no more roundings than a sum of gradients.
    """
    scale = max(1.0, float(np.abs(weights).max())) * tolerance(case, ALL_STEPS)
    for name, one, other, atol in (
        ("weights", found.weights, weights, scale),
        ("losses", found.losses, losses, 10 * scale),
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=f"{name} of {case}")  # type: ignore[arg-type]  # arrays


def assert_told(case: Case, found: Trained, told: Told) -> None:
    """Assert that ``found`` is what an oracle told."""
    assert_as(case, found, told.losses, told.weights)


def trained_serially(plan: TrainingPlan, dataset: Dataset) -> Trained:
    """Return the same training on one rank."""
    return run_threads(1, lambda one: train(serial(plan), dataset, one))[0]


def keep_to_scheme(case: Case, wire: Transport) -> None:
    """Raise unless ``case`` trains as its scheme says; all ranks must call it."""
    plan, dataset = scheme_plan(case), dataset_of(case)
    strategy, every = case.options.strategy, case.options.average_every
    if strategy is Strategy.ASYNC_SERVER:
        serve_as_recorded(case, wire)
        return
    found = train(plan, dataset, wire)
    digests = wire.gather_objects(found.digest)
    if wire.rank:
        return
    if strategy in (Strategy.SERVER, Strategy.SHARED_WINDOWS):
        expected = trained_serially(plan, dataset)
        assert_as(case, found, expected.losses, expected.weights)
    elif strategy in SHARED:
        assert np.isfinite(found.weights).all()
        assert np.isfinite(found.losses).all()
    else:
        alone = Session(serial(plan), dataset, run_threads(1, lambda one: one)[0])
        assert_told(case, found, Oracle(plan, dataset).train(orders_of(alone)))
        if every == 1 and not case.workload.has_momentum:
            expected = trained_serially(plan, dataset)
            assert_as(case, found, expected.losses, expected.weights)
    if strategy is Strategy.AVERAGING:
        assert len(set(digests)) == case.mesh.pp * case.mesh.tp, case
    elif strategy is Strategy.SERVER:  # what the workers pulled last is what counts
        assert set(digests[case.options.servers :]) == {sha256(found.weights.tobytes()).hexdigest()}
    elif strategy in SHARED:
        assert set(digests) == {sha256(found.weights.tobytes()).hexdigest()}, case


def train_served(plan: TrainingPlan, dataset: Dataset, wire: Transport) -> tuple[Trained, list[list[int]], Session]:  # fmt: skip
    """Return what ``EPOCHS`` epochs come to, and the arrivals at each server."""
    session = Session(plan, dataset, wire)
    losses = tuple(session.run_epoch(epoch + 1).loss for epoch in range(EPOCHS))
    weights = flat_weights(session)
    digest = sha256(session.buffers.parameters.tobytes()).hexdigest()
    arrivals = wire.gather_objects(session.arrivals)[: plan.options.servers]
    return Trained(losses, weights, digest), arrivals, session


def serve_as_recorded(case: Case, wire: Transport) -> None:
    """Raise unless the arrivals explain the weights, and a replay makes the same bits again."""
    plan, dataset = scheme_plan(case), dataset_of(case)
    found, arrivals, session = train_served(plan, dataset, wire)
    plan = replace(plan, replayed=tuple(map(tuple, arrivals)))
    again, replayed, _ = train_served(plan, dataset, wire)
    assert replayed == arrivals
    assert again.losses == found.losses
    assert again.weights.tobytes() == found.weights.tobytes()
    assert again.digest == found.digest
    if wire.rank:
        return
    # Threads add in the same order too.
    elsewhere = run_threads(wire.size, lambda each: train_served(plan, dataset, each)[0])[0]
    assert elsewhere.weights.tobytes() == found.weights.tobytes()
    told = serve(Oracle(plan, dataset), orders_of(session), arrivals)
    assert_as(case, found, told.losses, told.weights)
    every = np.arange(len(dataset.train_labels))
    stretches = tickets_of(every, case.workload.global_batch, case.num_trainers)
    num_tickets = sum(len(tickets) for _, tickets in stretches)
    assert [len(each) for each in arrivals] == [EPOCHS * num_tickets] * case.options.servers
    for taken in told.taken:
        assert sorted(taken) == list(range(len(dataset.train_labels)))
    assert [staleness(each) for each in arrivals] == told.staleness


def scheme_on(wire: Transport, strategy: Strategy, **options: object) -> Case:
    """Return ``strategy`` on all ranks, with a batch that no number of them divides."""
    return Case.of("6-5-4", 13, Mesh(dp=wire.size), strategy=strategy, **options)


def one_trainer_trains_as_serial(wire: Transport) -> None:
    servers = max(1, wire.size - 1)
    schemes: list[tuple[Strategy, dict[str, int]]] = [
        (each, {"servers": servers}) for each in SERVERS if 2 <= wire.size <= 4
    ]
    if wire.size == 2:
        schemes += [(each, {"average_every": every}) for each in MASTERS for every in (0, 1, 2)]
    if wire.size == 1:
        schemes += [(each, {"average_every": 2}) for each in (Strategy.AVERAGING, *SHARED)]
    for strategy, options in schemes:
        for has_momentum in (False, True):
            case = scheme_on(wire, strategy, **options)
            case = replace(case, workload=replace(case.workload, has_momentum=has_momentum))
            dataset = dataset_of(case)
            found = train(scheme_plan(case), dataset, wire)
            if wire.rank == 0:
                expected = trained_serially(scheme_plan(case), dataset)
                assert_as(case, found, expected.losses, expected.weights)


def average_conserves_the_mean_of_samples(wire: Transport) -> None:
    # A rate of 1e-300 moves no weight, so all that happens to them is the average.
    for every in (0, 1, 3):
        case = scheme_on(wire, Strategy.AVERAGING, average_every=every)
        plan = replace(plan_of(case, 1e-300, 0.0), has_independent_starts=True)
        dataset = whole_batches(dataset_of(case), 13)
        session = Session(plan, dataset, wire)
        before = wire.gather_objects(session.buffers.parameters.copy())
        assert len({each.tobytes() for each in before}) == wire.size
        for rank, each in enumerate(before):
            assert each.tobytes() == start_of(plan, rank)[0].tobytes()
        session.run_epoch(1)
        after = wire.gather_objects(session.buffers.parameters.copy())
        assert len({each.tobytes() for each in after}) == 1
        shares = [13 // wire.size + (rank < 13 % wire.size) for rank in range(wire.size)]
        mean = sum(weights * (share / 13) for weights, share in zip(before, shares, strict=True))
        # At most 2 averages of P weights below 1: 2 (2 P + 1) roundings of 1.1e-16.
        np.testing.assert_allclose(after[0], mean, rtol=0, atol=2 * (2 * wire.size + 1) * 1.1e-16)


def independent_starts_meet_at_the_first_average(wire: Transport) -> None:
    case = scheme_on(wire, Strategy.AVERAGING, average_every=2)
    plan, dataset = replace(scheme_plan(case), has_independent_starts=True), dataset_of(case)
    found = train(plan, dataset, wire)
    assert len(set(wire.gather_objects(found.digest))) == 1
    alone = Session(serial(plan), dataset, run_threads(1, lambda one: one)[0])
    starts = [start_of(plan, rank) for rank in range(wire.size)]
    assert_told(case, found, Oracle(plan, dataset).train(orders_of(alone), starts))


def replicas_differ_inside_a_round_only(wire: Transport) -> None:
    for strategy in (Strategy.AVERAGING, *MASTERS):
        if strategy in MASTERS and wire.size == 1:
            continue
        case = scheme_on(wire, strategy, average_every=2)
        dataset = whole_batches(dataset_of(case), 13)
        session = Session(scheme_plan(case), dataset, wire)
        session.do_step(next(session.batches(1)))
        inside = wire.gather_objects(session.buffers.parameters.copy())
        first = 0 if strategy is Strategy.AVERAGING else 1
        assert len({each.tobytes() for each in inside[first:]}) == wire.size - first
        if strategy in MASTERS:  # the master waits with what it handed out
            assert inside[0].tobytes() == start_of(session.plan)[0].tobytes()
        session = Session(scheme_plan(case), dataset, wire)
        session.run_epoch(1)
        owned = session.buffers.parameters.copy()
        ended = wire.gather_objects(owned)
        if strategy is Strategy.AVERAGING:
            assert len({each.tobytes() for each in ended}) == 1
        assert flat_weights(session).tobytes() == ended[0].tobytes()


ADDING = """program mesh={ranks}x1x1 itemsize=8 shared
role all dp=0:{ranks} pp=0 tp=0 slots=1 samples=1 holds=param[0:{size}],grad[0:{size}] nbytes=0
  compute acquire param
  compute update layer=0 mb=0 shape=0x0x{size} flops=0 nbytes=0 part=param[0:{size}]
  compute release param
"""


def lock_loses_no_update(wire: Transport) -> None:
    # Each rank takes its number off all weights, in whole numbers, so the sum is exact in any order.
    turns, workload = 200, Workload(mlp(100, 50), 1, 8)
    size = workload.num_parameters
    program = parse_program(ADDING.format(ranks=wire.size, size=size))
    check_program(program)
    shared = {"param": dict(enumerate(wire.share(size if wire.rank == 0 else 0, "float64")))}
    layout = layout_of(workload.network, program.mesh, 0, 0)
    buffers = Buffers(workload, layout, program.roles[0], 0, 0, "float64", wire.rank, shared)
    buffers.arrays["grad"][...] = -(wire.rank + 1)
    feed = Feed(np.zeros((1, 1)), np.zeros(1, np.int64), np.arange(0))
    binder = KernelBinder(buffers, feed, 1.0, 0.0, 1, (0,), (0,))
    step = bind_step(program, Wire.connect(wire, [program]), buffers, binder, Queue(wire.size, 0))
    wire.gather_objects(None)
    for _ in range(turns):
        step.run()
    wire.gather_objects(None)
    total = turns * wire.size * (wire.size + 1) // 2
    np.testing.assert_array_equal(buffers.parameters, float(total))


LAWS: tuple[Callable[[Transport], None], ...] = (
    one_trainer_trains_as_serial,
    average_conserves_the_mean_of_samples,
    independent_starts_meet_at_the_first_average,
    replicas_differ_inside_a_round_only,
    lock_loses_no_update,
)


def _keep_all(wire: Transport) -> None:
    cases = seeded_schemes(int(sys.argv[1]), wire.size, seed=wire.size)
    for case in cases:
        keep_to_scheme(case, wire)
        wire.gather_objects(None)
    for law in LAWS:
        law(wire)
        wire.gather_objects(None)
    if wire.rank == 0:
        print(f"{len(cases)} cases and {len(LAWS)} laws hold on {wire.size} ranks")


if __name__ == "__main__":
    run_job(TransportName.MPI, None, _keep_all)
