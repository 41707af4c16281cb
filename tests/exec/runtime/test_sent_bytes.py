"""The bytes that the transports count are those that the program says."""

import pytest
from hypothesis import given, settings

from exec.program.ops import Algorithm
from exec.transport.threads import run_threads
from tests.conftest import Launch
from tests.exec.random_plans import Case, cases
from tests.exec.runtime.sent_bytes import (
    NUM_PARAMETERS,
    allreduce_nbytes,
    program_nbytes,
    step_nbytes,
)


def optimum(ranks: int) -> int:
    """Return what the all-reduce must send from each rank, in bytes: 2 (p - 1) / p n."""
    each, rest = divmod(2 * (ranks - 1) * 8 * NUM_PARAMETERS, ranks)
    assert rest == 0
    return each


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("algorithm", [Algorithm.RING, Algorithm.LIBRARY])
def test_ring_sends_the_least_and_the_library_is_counted_so(
    algorithm: Algorithm, ranks: int
) -> None:
    sent = run_threads(ranks, lambda wire: allreduce_nbytes(algorithm, wire))
    assert sent == [optimum(ranks)] * ranks


@settings(derandomize=True, deadline=None, max_examples=40)
@given(cases())
def test_every_plan_sends_what_its_program_says(case: Case) -> None:
    ranks = case.mesh.world_size
    sent = run_threads(ranks, lambda wire: step_nbytes(case, wire))
    assert sent == [program_nbytes(case, rank) for rank in range(ranks)]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_mpi_counts_as_threads_do(launch: Launch, ranks: int) -> None:
    ended = launch(ranks, "tests.exec.runtime.sent_bytes", "20")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    each = " ".join([str(optimum(ranks))] * ranks)
    assert ended.stdout.splitlines() == [f"ring {each}", f"library {each}"]
