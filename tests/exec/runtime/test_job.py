"""A job has one end: whichever rank fails, all stop, and the rank and the cause are named."""

import sys

import pytest

from exec.errors import DataError, UsageError
from exec.runtime.job import AgreedError, TransportName, choose_transport, run_job, together
from exec.transport.threads import ThreadTransport, run_threads
from tests.conftest import Finished, Launch, run_process

FAILING = "tests.exec.runtime.failing_job"
CAUSES = {
    "set-up": "DataError: the disk of rank 1 is empty",
    "mid-step": "TypeError: ",
}


def run_on_threads(when: str) -> Finished:
    """Run the failing job on threads; twenty seconds are for a busy machine, not for the job."""
    return run_process([sys.executable, "-m", FAILING, "threads", when], timeout_s=20)


@pytest.mark.parametrize("when", CAUSES)
def test_rank_that_raises_ends_a_job_of_threads_and_is_named(when: str) -> None:
    ended = run_on_threads(when)
    assert ended.returncode == 1
    assert CAUSES[when] in ended.stderr
    assert "raised by rank 1" in ended.stderr
    assert "no rank may come here" not in ended.stderr


@pytest.mark.mpi
@pytest.mark.parametrize("when", CAUSES)
def test_rank_that_raises_ends_a_job_of_mpi_and_is_named(launch: Launch, when: str) -> None:
    ended = launch(3, FAILING, "mpi", when, timeout_s=20)
    assert ended.returncode != 0
    assert f"error: rank 1 of 3 failed: {CAUSES[when]}" in ended.stderr
    assert "no rank may come here" not in ended.stderr


@pytest.mark.mpi
def test_rank_that_is_killed_ends_a_job_of_mpi(launch: Launch) -> None:
    ended = launch(3, FAILING, "mpi", "killed", timeout_s=20)
    assert ended.returncode != 0
    assert "no rank may come here" not in ended.stderr


@pytest.mark.mpi
def test_launcher_of_another_mpi_is_one_message(mpiexec: str) -> None:
    # What a process of a foreign launcher sees: two ranks announced, and a world of one.
    ended = run_process([sys.executable, "-m", "exec.train", "--transport", "mpi"], PMI_SIZE="2")
    assert ended.returncode == 2
    assert ended.stderr.count("error:") == 1
    assert "the launcher started 2 ranks, but each sees a world of 1" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.mpi
def test_ranks_must_be_those_that_were_launched(launch: Launch) -> None:
    ended = launch(2, "exec.train", "--ranks", "3")
    assert ended.returncode == 2
    assert ended.stderr.count("error:") == 1
    assert "ranks must be the 2 that the launcher started, got 3" in ended.stderr


def test_failure_of_one_rank_is_agreed_on_by_all() -> None:
    def body(wire: ThreadTransport) -> str:
        def read() -> str:
            if wire.rank == 2:
                raise DataError("the disk is empty")
            return "data"

        with pytest.raises(AgreedError, match=r"^rank 2: the disk is empty$"):
            together(wire, read)
        return together(wire, lambda: f"rank {wire.rank} goes on")

    assert run_threads(3, body) == [f"rank {rank} goes on" for rank in range(3)]


def test_failure_of_all_ranks_is_said_once() -> None:
    def body(wire: ThreadTransport) -> None:
        def read() -> None:
            raise DataError("no disk")

        together(wire, read)

    with pytest.raises(AgreedError) as caught:
        run_threads(3, body)
    assert str(caught.value) == "no disk"
    assert not hasattr(caught.value, "__notes__")


def test_job_returns_the_result_of_rank_0() -> None:
    assert run_job(TransportName.THREADS, 3, lambda wire: (wire.rank, wire.size)) == (0, 3)


def test_transport_follows_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert choose_transport(TransportName.AUTO) is TransportName.THREADS
    monkeypatch.setenv("PMI_SIZE", "4")
    assert choose_transport(TransportName.AUTO) is TransportName.MPI
    with pytest.raises(UsageError, match="transport must be mpi under a launcher of 4 ranks"):
        choose_transport(TransportName.THREADS)
