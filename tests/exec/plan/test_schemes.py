"""Laws of the plans by which replicas talk: legal, whole, and exactly what they hold."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.network.network import mlp
from exec.plan.collectives import scratch_elements
from exec.plan.epoch import check_plan
from exec.plan.options import PlanOptions, parse_every, parse_slow
from exec.plan.rounds import Round, rounds
from exec.plan.segment import Segment
from exec.plan.strategy import MASTERS, ROUNDS, SERVERS, SHARED, Strategy
from exec.program.check import check_program
from exec.program.mesh import Mesh
from exec.program.ops import Acquire, Compute, Grant, Kernel, Release, Scale
from exec.program.parse import parse_program
from exec.program.text import format_program
from exec.runtime.session import Session
from exec.transport.threads import run_threads
from exec.workload import Workload
from tests.exec.random_plans import Case, schemes
from tests.exec.runtime.equivalence import dataset_of
from tests.exec.runtime.schemes import scheme_plan

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)


@st.composite
def epochs(draw: st.DrawFn) -> tuple[Case, tuple[Segment, ...], int]:
    """Draw a case, and its epoch of so many samples."""
    case = draw(schemes())
    num_samples = draw(st.integers(case.workload.global_batch, 6 * case.workload.global_batch))
    return case, case.segments(num_samples), num_samples


def samples_loaded(case: Case, segment: Segment) -> int:
    """Return on how many samples the replicas' losses are computed, each time, or in each ticket."""
    program, mesh = segment.program, case.mesh
    return sum(
        op.shape.n
        for rank in range(mesh.world_size)
        if mesh.coordinates(rank)[2] == 0
        for op in program.ops(rank)
        if isinstance(op, Compute) and op.kernel is Kernel.LOSS
    )


@SETTINGS
@given(epochs())
def test_every_scheme_is_legal_and_its_text_parses_back(
    drawn: tuple[Case, tuple[Segment, ...], int],
) -> None:
    case, segments, _ = drawn
    check_plan(case.workload, case.mesh, case.options)
    for segment in segments:
        check_program(segment.program.with_tickets(20))
        assert parse_program(format_program(segment.program)) == segment.program


@SETTINGS
@given(epochs())
def test_epoch_takes_every_sample_once(drawn: tuple[Case, tuple[Segment, ...], int]) -> None:
    case, segments, num_samples = drawn
    assert sum(segment.times * segment.samples for segment in segments) == num_samples
    assert all(segment.times > 0 and segment.samples > 0 for segment in segments)
    for segment in segments:
        tickets, trainers = segment.program.tickets, segment.program.trainers
        assert len(trainers) == case.num_trainers
        if tickets:  # workers take alike, and only tickets count
            assert samples_loaded(case, segment) * tickets == segment.samples * len(trainers)
        else:
            assert samples_loaded(case, segment) == segment.samples


@SETTINGS
@given(epochs())
def test_shares_of_an_average_are_those_of_samples_and_sum_to_one(
    drawn: tuple[Case, tuple[Segment, ...], int],
) -> None:
    case, segments, num_samples = drawn
    mesh, trainers = case.mesh, segments[0].program.trainers
    seen: Counter[int] = Counter()
    num_averaged = 0
    for segment in segments:
        shares = {}
        for dp_rank in trainers:
            ops = list(segment.program.ops(dp_rank * mesh.pp * mesh.tp))
            loads = [op for op in ops if isinstance(op, Compute) and op.kernel is Kernel.LOAD]
            seen[dp_rank] += segment.times * sum(op.shape.n for op in loads)
            scales = [op for op in ops if isinstance(op, Scale)]
            if scales:
                assert segment.times == 1 or case.options.average_every == 1
                shares[dp_rank] = scales[0].numerator * segment.times, scales[0].denominator
        if shares:
            (denominator,) = {denominator for _, denominator in shares.values()}
            assert sum(share for share, _ in shares.values()) == denominator * segment.times
            assert {rank: share for rank, (share, _) in shares.items()} == dict(seen)
            num_averaged += sum(seen.values())
            seen.clear()
    is_averaged = case.options.strategy in ROUNDS and (
        case.mesh.dp > 1 or case.options.strategy in MASTERS
    )
    assert num_averaged == (num_samples if is_averaged else 0)


@SETTINGS
@given(epochs())
def test_servers_share_out_the_parameters_and_only_they_keep_velocities(
    drawn: tuple[Case, tuple[Segment, ...], int],
) -> None:
    case, segments, _ = drawn
    if case.options.strategy not in SERVERS:
        return
    size, has_ticket = case.workload.num_parameters, case.options.strategy is Strategy.ASYNC_SERVER
    for segment in segments:
        stop = 0
        for rank in range(case.mesh.dp):
            role = segment.program.role_of(rank)
            held = role.held("param")
            assert held is not None
            is_server = rank < case.options.servers
            assert (role.held("velocity") is not None) == (is_server and case.workload.has_momentum)
            if is_server:
                assert segment.program.owned(rank) == held
                assert held.start == stop
                stop = held.stop
            else:
                assert segment.program.owned(rank) is None
                assert (held.start, held.stop) == (0, size + has_ticket)
        assert stop == size + has_ticket
        updated = [
            op.part
            for rank in range(case.mesh.dp)
            for op in segment.program.ops(rank)
            if isinstance(op, Compute) and op.kernel is Kernel.UPDATE
        ]
        covered = [i for part in updated if part is not None for i in range(part.start, part.stop)]
        assert covered == list(range(size))


@settings(SETTINGS, max_examples=40)
@given(schemes(range(1, 5)))
def test_buffers_are_exactly_what_the_role_lists(case: Case) -> None:
    dataset = dataset_of(case)
    programs = [segment.program for segment in case.segments(len(dataset.train_labels))]
    plan = replace(scheme_plan(case), workload=case.workload)
    scratch = max(map(scratch_elements, programs))
    allocated = run_threads(
        case.mesh.world_size, lambda wire: Session(plan, dataset, wire).buffers.nbytes
    )
    for rank, nbytes in enumerate(allocated):
        roles = [program.role_of(rank) for program in programs]
        idle = 0 if roles[0].held("scratch") else scratch
        assert nbytes == max(role.nbytes for role in roles) + 8 * idle
    if case.options.strategy is not Strategy.AVERAGING:
        assert scratch == 0


@SETTINGS
@given(epochs())
def test_last_server_grants_and_locks_are_let_go(
    drawn: tuple[Case, tuple[Segment, ...], int],
) -> None:
    case, segments, _ = drawn
    strategy = case.options.strategy
    for segment in segments:
        for rank in range(case.mesh.world_size):
            role, ops = segment.program.role_of(rank), list(segment.program.ops(rank))
            assert segment.program.is_shared == (strategy in SHARED)
            granting = strategy is Strategy.ASYNC_SERVER and rank == case.options.servers - 1
            assert any(isinstance(op, Grant) for op in ops) == granting
            locks = [op for op in ops if isinstance(op, Acquire | Release)]
            expected = ["Acquire", "Release"] * (strategy is Strategy.SHARED_LOCK)
            assert [type(op).__name__ for op in locks] == expected
            if strategy is Strategy.ASYNC_SERVER and rank < case.options.servers:
                assert role.times == segment.program.tickets
            elif strategy is Strategy.ASYNC_SERVER:
                assert role.until == f"pull.{case.options.servers - 1}"


@settings(SETTINGS, max_examples=200)
@given(st.integers(1, 200), st.integers(1, 30), st.integers(0, 12), st.integers(1, 8))
def test_rounds_cover_the_epoch(num_samples: int, batch: int, every: int, trainers: int) -> None:
    found = rounds(num_samples, batch, every)
    assert sum(each.samples for each in found) == num_samples
    steps = [size for each in found for size in each.steps]
    assert all(size == batch for size in steps[:-1])
    assert 1 <= steps[-1] <= batch
    for each in found:
        assert sum(each.share(trainers, place) for place in range(trainers)) == each.samples
        shares = [each.share(trainers, place) for place in range(trainers)]
        assert shares == sorted(shares, reverse=True)
    if every:
        assert all(len(each.steps) == every for each in found[:-1])
        assert 1 <= len(found[-1].steps) <= every
    else:
        assert len(found) == 1


def test_rounds_of_an_epoch_with_a_short_batch() -> None:
    assert rounds(25, 10, 2) == [Round(2, 10, 0), Round(0, 10, 5)]
    assert rounds(25, 10, 3) == rounds(25, 10, 0) == rounds(25, 10, 9) == [Round(2, 10, 5)]
    assert rounds(20, 10, 1) == [Round(1, 10, 0)] * 2


ILLEGAL = {
    "no server": (Mesh(dp=3), {"strategy": Strategy.SERVER, "servers": 0}, "servers must be at least 1"),
    "all serve": (Mesh(dp=3), {"strategy": Strategy.ASYNC_SERVER, "servers": 3}, "leave a worker of the 3 ranks, got 3"),
    "many servers": (Mesh(dp=9), {"strategy": Strategy.SERVER, "servers": 7}, "servers must be at most the 6 parameters, got 7"),
    "no worker": (Mesh(dp=1), {"strategy": Strategy.MASTER_BROADCAST}, "ranks must be at least 2 for master_broadcast"),
    "microbatches": (Mesh(dp=2), {"strategy": Strategy.HOGWILD, "num_microbatches": 2}, "microbatches must be 1 for hogwild, got 2"),
    "batch": (Mesh(dp=12), {"strategy": Strategy.SERVER}, "batch must be at least dp x microbatches = 11 x 1 = 11, got 10"),
    "every": (Mesh(dp=2), {"strategy": Strategy.AVERAGING, "average_every": -1}, "average-every must be at least 1, or epoch, got -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", ILLEGAL)
def test_plan_that_cannot_be_is_refused(name: str) -> None:
    mesh, options, message = ILLEGAL[name]
    with pytest.raises(UsageError) as caught:
        check_plan(Workload(mlp(2, 2), 10), mesh, PlanOptions(**options))  # type: ignore[arg-type]  # by name
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["0", "-1", "", "1.5", "x", "²", "epochs", " 2"])
def test_steps_between_averages_are_spelled_as_a_number_or_epoch(text: str) -> None:
    with pytest.raises(UsageError, match="average-every must be a whole number of at least 1, or"):
        parse_every(text)


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["x"], "a rank and a factor"), (["1="], "a rank and a factor"), (["1=x"], "a rank and a factor"),
     (["1=-2"], "a rank and a factor"), (["1=1e9"], "a rank and a factor"), (["2=2"], "ranks 0 .. 1"),
     (["1=2", "1=3"], "each once"), (["0=0.5"], "factor of at least 1")],
)  # fmt: skip
def test_slowness_that_cannot_be_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_slow(texts, 2)
    assert parse_slow(["1=2.5", "0=1"], 2) == ((0, 1.0), (1, 2.5))
