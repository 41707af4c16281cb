"""Each scheme by which replicas talk keeps its own law, on threads and over MPI."""

from collections.abc import Callable
from time import perf_counter

import pytest
from hypothesis import given, settings

from exec.plan.strategy import Strategy
from exec.runtime.step import _slowed
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from tests.conftest import Launch
from tests.exec.random_plans import SCHEMES, Case, schemes, seeded_schemes
from tests.exec.runtime.schemes import LAWS, keep_to_scheme


@pytest.mark.parametrize("strategy", SCHEMES)
def test_any_case_on_threads_keeps_to_its_scheme(strategy: Strategy) -> None:
    @settings(derandomize=True, deadline=None, max_examples=30)
    @given(schemes(range(1, 6), [strategy]))
    def keep(case: Case) -> None:
        run_threads(case.mesh.world_size, lambda wire: keep_to_scheme(case, wire))

    keep()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_holds_on_threads(law: Callable[[Transport], None], ranks: int) -> None:
    run_threads(ranks, law)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_schemes_keep_their_laws_on_mpi(launch: Launch, ranks: int) -> None:
    count = 8
    ended = launch(ranks, "tests.exec.runtime.schemes", str(count), timeout_s=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cases = count * len(SCHEMES)
    assert ended.stdout == f"{cases} cases and {len(LAWS)} laws hold on {ranks} ranks\n"


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_cases_for_mpi_cover_rounds_momentum_and_servers(ranks: int) -> None:
    drawn = seeded_schemes(8, ranks, seed=ranks)
    assert {case.options.strategy for case in drawn} == set(SCHEMES)
    assert {case.workload.has_momentum for case in drawn} == {False, True}
    assert len({case.options.average_every for case in drawn}) > 2
    if ranks > 2:
        assert len({case.options.servers for case in drawn}) > 1


@pytest.mark.parametrize("factor", [1.0, 1.5, 4.0])
def test_slowed_call_is_done_once_and_takes_the_factor_of_its_time(factor: float) -> None:
    inner_s: list[float] = []

    def call() -> None:
        start_s = perf_counter()
        sum(range(20_000))
        inner_s.append(perf_counter() - start_s)

    slow = _slowed(call, factor)
    start_s = perf_counter()
    slow()
    elapsed_s = perf_counter() - start_s
    assert len(inner_s) == 1
    # Differences of clock readings round by less than a nanosecond.
    assert elapsed_s >= factor * inner_s[0] - 1e-9
