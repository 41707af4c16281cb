"""The meaning of a training of any network: on any mesh, by any strategy, with batch normalisation.

The comparison with the oracle of :mod:`plain_schemes`, for the tests on threads, and as a program
for MPI: ``mpiexec -n P python -m tests.exec.runtime.graphs COUNT [DEVICE]``.
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from hypothesis import strategies as st

from exec.data.dataset import Dataset
from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.network.modules import BatchNorm2d
from exec.network.network import Network
from exec.nn.weights import Weights
from exec.plan.collectives import scratch_elements
from exec.plan.epoch import check_plan
from exec.plan.stages import exchange_node
from exec.plan.strategy import LOCKSTEP, Strategy
from exec.program.mesh import Mesh
from exec.runtime.backend import Backend
from exec.runtime.job import TransportName, run_job
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.runtime.weights import scatter_weights
from exec.transport.protocol import Transport
from tests.exec.random_graphs import draw_graph
from tests.exec.random_networks import draw_network
from tests.exec.random_plans import Case, DrawNetwork, Pick, draw_case, draw_scheme
from tests.exec.runtime.equivalence import dataset_of, plan_of
from tests.exec.runtime.plain_network import Flat, coarse, exactly
from tests.exec.runtime.plain_schemes import Indices, Learnt, Oracle, Told, serve

EPOCHS = 2
SCHEMES = (
    Strategy.AVERAGING, Strategy.MASTER_ROUND_TRIP, Strategy.MASTER_BROADCAST, Strategy.SERVER,
    Strategy.SHARED_WINDOWS, Strategy.ASYNC_SERVER,
)  # fmt: skip
"""Those that do the same again, or record what they did."""
KINDS = ("mesh", "stages", "krizhevsky")
# How far roundings move a result depends on the network: a normalisation divides by what may be
# small. So the oracle trains once more with each number rounded at random to UNIT, and the
# difference, scaled to the unit roundoff of float64, is what one rounding a number does (D. S.
# Parker, "Monte Carlo arithmetic", UCLA CSD-970002 (1997)). The executor's sums round once a term,
# of which there are at most a few hundred here: 6 sqrt(N) of that, but for one in a million.
UNIT = 1e-9
ROUNDOFF = 2.0**-53
SAFETY = 256.0
# Where so small an error does so much, an activation is at its kink.
ILL = 1e-4


def draw_mesh_case(
    pick: Pick,  # type: ignore[type-arg]  # of anything
    ranks: Sequence[int],
    draw: DrawNetwork = draw_network,
    kinds: Sequence[str] = KINDS,
) -> Case:
    """Return a case of ranks that take every step together: meshes, stages, Krizhevsky's hybrid."""
    case = draw_case(pick, ranks, draw)
    kind = pick(kinds)
    network, size, found = case.workload.network, case.mesh.world_size, case
    if kind == "stages" and size > 1:
        mesh = case.mesh if case.mesh.pp > 1 else Mesh(pp=size)
        cuts = list(network.stage_starts[1:])
        while len(cuts) > mesh.pp - 1:
            cuts.remove(pick(cuts))
        options = replace(case.options, stages=tuple(cuts), ranks_per_node=1)
        found = Case(case.workload, mesh, options)
    elif kind == "krizhevsky" and size > 1:
        meshes = [Mesh(size // tp, 1, tp) for tp in range(2, size + 1) if size % tp == 0]
        options = replace(case.options, strategy=Strategy.KRIZHEVSKY, ranks_per_node=1)
        least = size * options.num_microbatches + pick(range(6))
        found = Case(replace(case.workload, global_batch=least), pick(meshes), options)
    return found if is_legal(found) else case


def is_legal(case: Case) -> bool:
    """Say whether ``case`` is allowed, and has one meaning: all normalise before any exchange."""
    network = case.workload.network
    try:
        check_plan(case.workload, case.mesh, case.options)
    except UsageError:
        return False
    if not case.options.is_exchanged or case.options.sync_batchnorm:
        return True
    behind = network.nodes[exchange_node(network) :]
    return not any(isinstance(node.module, BatchNorm2d) for node in behind)


def draw_graph_scheme(
    pick: Pick,  # type: ignore[type-arg]  # of anything
    ranks: Sequence[int],
    strategies: Sequence[Strategy] = SCHEMES,
    draw: DrawNetwork = draw_network,
) -> Case:
    """Return a case of replicas that talk in another way, of a network that is a graph."""
    return draw_scheme(pick, ranks, strategies, draw)


@st.composite
def mesh_cases(draw: st.DrawFn, ranks: Sequence[int], network: DrawNetwork = draw_network) -> Case:
    """Draw a case of ranks that take every step together."""
    return draw_mesh_case(lambda options: draw(st.sampled_from(options)), ranks, network)


@st.composite
def scheme_cases(
    draw: st.DrawFn, ranks: Sequence[int], strategies: Sequence[Strategy] = SCHEMES
) -> Case:
    """Draw a case of replicas that talk in another way."""
    return draw_graph_scheme(lambda options: draw(st.sampled_from(options)), ranks, strategies)


def any_start(network: Network) -> Learnt:
    """Return weights and statistics of which none is 0 or 1, so that no activation is at its kink."""
    generator = np.random.Generator(np.random.PCG64(network.num_parameters))
    num_stats = sum(2 * node.shape[0] for node in network.nodes if isinstance(node.module, BatchNorm2d))  # fmt: skip
    start = Weights(network, np.zeros(network.num_parameters), np.zeros(num_stats))
    for _, own in start.nodes():
        fan_in = own.weight.size // len(own.weight)
        own.weight[...] = generator.uniform(-1, 1, own.weight.shape) * (3 / fan_in) ** 0.5
        if own.bias is not None:
            own.bias[...] = generator.uniform(-0.5, 0.5, own.bias.shape)
        if own.mean is not None and own.variance is not None:
            own.weight[...] = generator.uniform(0.5, 1.5, own.weight.shape)
            own.mean[...] = generator.uniform(-0.5, 0.5, own.mean.shape)
            own.variance[...] = generator.uniform(0.5, 1.5, own.variance.shape)
    return start.parameters, start.stats


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to; ``digest`` is that of this rank's parameters."""

    losses: list[float]
    weights: Flat
    stats: Flat
    digest: str


def graph_plan(case: Case) -> TrainingPlan:
    """Return the plan of ``case``."""
    return plan_of(case, 0.1, 0.5 if case.workload.has_momentum else 0.0)


def started(
    plan: TrainingPlan, dataset: Dataset, wire: Transport, backend: Backend | None = None
) -> Session:
    """Return a session that begins with :func:`any_start`."""
    session = Session(plan, dataset, wire, backend=backend)
    scatter_weights(session.buffers, Weights(plan.workload.network, *any_start(plan.workload.network)))  # fmt: skip
    wire.gather_objects(None)  # nobody may train in shared memory what another has still to set
    return session


def trained(session: Session, epochs: int = EPOCHS) -> Trained:
    """Return what ``epochs`` come to."""
    losses = [session.run_epoch(epoch + 1).loss for epoch in range(epochs)]
    weights = session.weights()
    digest = sha256(session.buffers.parameters.tobytes()).hexdigest()
    return Trained(losses, weights.parameters, weights.stats, digest)


def orders_of(session: Session, epochs: int = EPOCHS) -> list[Indices]:
    """Return the order of samples in each epoch."""
    return [np.concatenate(list(session.batches(epoch + 1))) for epoch in range(epochs)]


def assert_as_told(
    found: Trained, session: Session, arrivals: Sequence[Sequence[int]], what: object
) -> bool:
    """Assert that ``found`` is what the oracle tells; say whether it could be judged.

    Asynchronous servers took messages in the order of ``arrivals``.
    """
    orders, start = orders_of(session), any_start(session.plan.workload.network)
    oracles = [Oracle(session.plan, session.dataset, blur) for blur in (exactly, coarse(1, UNIT))]
    if session.plan.options.strategy is Strategy.ASYNC_SERVER:
        served = [serve(oracle, orders, arrivals, start) for oracle in oracles]
        told, rough = (Told(each.losses, each.weights, each.stats) for each in served)
    else:
        told, rough = (oracle.train(orders, [start]) for oracle in oracles)
    return assert_close(found, told, rough, what)


def assert_close(found: Told | Trained, told: Told, rough: Told, what: object) -> bool:
    """Assert that ``found`` is as ``told``, as far as ``rough`` says; say whether it could be judged."""
    # One of the three may move little by chance, so what moves most is the measure of all.
    scales, moved = {}, UNIT
    for name in ("losses", "weights", "stats"):
        expected, other = (np.asarray(getattr(each, name)) for each in (told, rough))
        scales[name] = max(1.0, np.abs(expected).max(initial=0.0))
        moved = max(moved, np.abs(expected - other).max(initial=0.0) / scales[name])
    if not moved < ILL:
        return False
    for name, scale in scales.items():
        np.testing.assert_allclose(
            getattr(found, name), getattr(told, name), rtol=0,
            atol=SAFETY * scale * moved * ROUNDOFF / UNIT, err_msg=f"{name} of {what}",
        )  # fmt: skip
    return True


def held_nbytes(case: Case, dataset: Dataset, rank: int) -> int:
    """Return what the programs of ``case`` say that ``rank`` holds, in bytes."""
    programs = [segment.program for segment in case.segments(len(dataset.train_labels))]
    scratch = max(map(scratch_elements, programs))
    return programs[0].role_of(rank).nbytes + 8 * scratch


def attempt(case: Case, wire: Transport, backend: Backend | None = None) -> Callable[[], bool]:
    """Train as ``case`` says; return what then raises unless it trained as told.

    That says whether it could be judged. It sends nothing, so one rank may do it.
    """
    plan, dataset = graph_plan(case), dataset_of(case)
    session = started(plan, dataset, wire, backend)
    assert session.buffers.nbytes == held_nbytes(case, dataset, wire.rank), case
    found = trained(session)
    arrivals = wire.gather_objects(session.arrivals)[: case.options.servers]
    digests = wire.gather_objects((case.mesh.coordinates(wire.rank)[1:], found.digest))
    if case.options.strategy in (*LOCKSTEP, Strategy.AVERAGING):  # replicas hold the same bits
        assert len(set(digests)) == len({place for place, _ in digests}), case
    return lambda: assert_as_told(found, session, arrivals, case)


def keep_meaning(case: Case, wire: Transport, backend: Backend | None = None) -> bool:
    """Raise on rank 0 unless ``case`` trains as told; say whether it could be judged."""
    judge = attempt(case, wire, backend)
    return wire.rank > 0 or judge()


def _of_kind(pick: Pick, ranks: int, kind: str) -> Case:  # type: ignore[type-arg]  # of anything
    """Return a case of ``kind``, which not every network allows."""
    while True:
        case = draw_mesh_case(pick, [ranks], kinds=[kind])
        if kind == "mesh" or case.options.stages or case.options.is_exchanged:
            return case


def seeded_graphs(count: int, ranks: int, seed: int) -> list[Case]:
    """Return ``count`` cases of each kind on ``ranks`` ranks, the same in every process."""
    pick = random.Random(
        10 + seed
    ).choice  # a seed with which few cases cover much; the tests say what
    drawn = [_of_kind(pick, ranks, kind) for kind in KINDS for _ in range(count)]
    drawn += [draw_mesh_case(pick, [ranks], draw_graph) for _ in range(count)]
    return drawn + [
        draw_graph_scheme(pick, [ranks], [each]) for each in SCHEMES for _ in range(count)
    ]


def _keep_all(wire: Transport) -> None:
    kind = DeviceKind(sys.argv[2]) if len(sys.argv) > 2 else DeviceKind.CPU
    drawn = seeded_graphs(int(sys.argv[1]), wire.size, seed=wire.size)
    cases = [replace(case, options=replace(case.options, device=kind)) for case in drawn]
    judges = [attempt(case, wire) for case in cases]
    own = sum(judge() for judge in judges[wire.rank :: wire.size])  # each rank some of them
    if sum(wire.gather_objects(own)) < 0.9 * len(cases):
        raise AssertionError("more than one case in ten is at a kink")
    if wire.rank == 0:
        print(f"{len(cases)} cases mean what they say on {wire.size} ranks")


if __name__ == "__main__":
    run_job(TransportName.MPI, None, _keep_all)
