"""One conformance suite, all transports."""

import pytest

from exec.transport.threads import run_threads
from tests.conftest import Launch
from tests.exec.transport.conformance import CASES, Case


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_threads_conform(case: Case, ranks: int) -> None:
    run_threads(ranks, case)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_mpi_conforms(launch: Launch, ranks: int) -> None:
    ended = launch(ranks, "tests.exec.transport.conformance")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines() == [f"conforms: {case.__name__}" for case in CASES]
