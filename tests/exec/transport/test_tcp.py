"""The control plane without MPI: the conformance suite, and an end for all when a rank is lost."""

import json
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import TransportError, UsageError
from exec.program.ops import CollectiveKind
from exec.transport.nccl import NcclTransport
from exec.transport.protocol import Buffer
from exec.transport.rendezvous import Address, Rendezvous, find_rendezvous
from exec.transport.tcp import connect
from exec.transport.threads import ThreadTransport, run_threads
from tests.conftest import ROOT, clean_environment
from tests.exec.transport.conformance import TCP_CASES

Ended = tuple[int, str, str]


@contextmanager
def started(ranks: int, body: str, **extra: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield the processes of a job, which are killed at the end if they still run."""
    command = [sys.executable, "-m", "tests.exec.transport.tcp_job", body]
    jobs = [
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=clean_environment(**{"RANK": str(rank), "WORLD_SIZE": str(ranks)} | extra),
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        yield jobs
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def run(ranks: int, body: str, **extra: str) -> list[Ended]:
    """Return how each rank of a job has ended, and what it said."""
    with started(ranks, body, **extra) as jobs:
        said = [job.communicate(timeout=60) for job in jobs]
        return [(job.returncode, *each) for job, each in zip(jobs, said, strict=True)]


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_that_meet_at_a_file_conform(ranks: int, tmp_path: Path) -> None:
    place = tmp_path / "place"
    ended = run(ranks, "conform", STEPCAST_RENDEZVOUS=str(place))
    assert [code for code, _, _ in ended] == [0] * ranks, ended
    assert ended[0][1].splitlines() == [f"conforms: {case.__name__}" for case in TCP_CASES]
    assert all(err == "" for _, _, err in ended)
    assert not place.exists()


def test_ranks_that_meet_at_a_port_conform() -> None:
    ended = run(2, "conform", MASTER_ADDR="localhost", MASTER_PORT=free_port())
    assert [code for code, _, _ in ended] == [0] * 2, ended


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_lost_rank_ends_all_and_is_named_once(lost: int, tmp_path: Path) -> None:
    ended = run(4, f"lose:{lost}", STEPCAST_RENDEZVOUS=str(tmp_path / "place"))
    assert ended[lost][0] == -9
    assert [code for rank, (code, _, _) in enumerate(ended) if rank != lost] == [1] * 3
    said = "".join(err for _, _, err in ended)
    assert said == (
        f"error: rank {lost} of 4 is lost: its connection broke, so it has probably died\n"
    )


@pytest.mark.parametrize("failing", [0, 2])
def test_rank_that_raises_ends_all_and_is_named_once(failing: int, tmp_path: Path) -> None:
    ended = run(3, f"raise:{failing}", STEPCAST_RENDEZVOUS=str(tmp_path / "place"))
    assert [code for code, _, _ in ended] == [1] * 3
    for rank, (_, _, err) in enumerate(ended):
        if rank == failing:
            assert f"error: rank {failing} of 3 failed: ArithmeticError: cannot count" in err
        else:
            assert err == ""


@pytest.mark.usefixtures("emulated")
def test_groups_of_devices_are_made_over_it(tmp_path: Path) -> None:
    def body(thread: ThreadTransport) -> Buffer:
        wire = connect(Rendezvous(thread.rank, 3, tmp_path / "place", None))
        device = open_device(DeviceKind.EMULATED, wire.rank)
        transport = NcclTransport(wire, device)
        part = transport.split(int(wire.rank == 2))
        array = device.upload(np.array([wire.rank + 1.0]))
        part.run_collective(CollectiveKind.ALLREDUCE, array, [], 0)
        found = device.read(array)
        for each in (part, transport, wire):
            each.close()
        return found

    assert run_threads(3, body) == [3.0, 3.0, 3.0]


def test_shared_memory_is_refused(tmp_path: Path) -> None:
    ended = run(2, "share", STEPCAST_RENDEZVOUS=str(tmp_path / "place"))
    assert any("shared memory needs ranks started with MPI or as threads" in e for _, _, e in ended)


def test_rank_that_waits_in_vain_names_those_that_are_absent(tmp_path: Path) -> None:
    rendezvous = find_rendezvous(
        {
            "STEPCAST_RENDEZVOUS": str(tmp_path / "place"),
            "STEPCAST_RENDEZVOUS_TIMEOUT_S": "1",
            "RANK": "0",
            "WORLD_SIZE": "3",
        }
    )
    assert rendezvous is not None
    with pytest.raises(TransportError, match=r"waited 1 s .* ranks \[1, 2\] have not come"):
        connect(rendezvous)


def test_rank_that_finds_nobody_names_the_place(tmp_path: Path) -> None:
    rendezvous = find_rendezvous(
        {
            "STEPCAST_RENDEZVOUS": str(tmp_path / "place"),
            "STEPCAST_RENDEZVOUS_TIMEOUT_S": "1",
            "RANK": "1",
            "WORLD_SIZE": "2",
        }
    )
    assert rendezvous is not None
    with pytest.raises(
        TransportError, match=r"rank 1 of 2 waited 1 s at file .*has not said where"
    ):
        connect(rendezvous)


def test_stranger_with_another_token_is_not_heard(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with started(1, "conform", STEPCAST_RENDEZVOUS=str(place), WORLD_SIZE="2") as (server,):
        while not place.exists():
            assert server.poll() is None
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        found = json.loads(place.read_text())
        place.write_text(json.dumps(found | {"token": "guessed"}))
        rendezvous = find_rendezvous(
            {
                "STEPCAST_RENDEZVOUS": str(place),
                "STEPCAST_RENDEZVOUS_TIMEOUT_S": "1",
                "RANK": "1",
                "WORLD_SIZE": "2",
            }
        )
        assert rendezvous is not None
        with pytest.raises(TransportError, match="what answers is of another job"):
            connect(rendezvous)


def test_launchers_are_understood() -> None:
    assert find_rendezvous({}) is None
    assert find_rendezvous({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}) is None
    torch = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    found = find_rendezvous(torch)
    assert found is not None
    assert (found.rank, found.size) == (1, 4)
    assert found.address == Address("n1", 29500, "stepcast@n1:29500")
    # torchrun listens on the port itself.
    found = find_rendezvous(torch | {"TORCHELASTIC_USE_AGENT_STORE": "True", "STEPCAST_TOKEN": "s"})
    assert found is not None
    assert found.address == Address("n1", 29501, "s")
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "STEPCAST_RENDEZVOUS": "/shared/place"}
    found = find_rendezvous(slurm)
    assert found is not None
    assert (found.rank, found.size, found.path) == (3, 8, Path("/shared/place"))


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number of at least 1, got 'two'"),
        ({"RANK": "-1"}, "RANK must be a whole number of at least 0, got '-1'"),
        ({"RANK": "2"}, "RANK must be below WORLD_SIZE 2, got 2"),
        ({"MASTER_PORT": ""}, "MASTER_PORT must be a whole number"),
    ],
)
def test_impossible_launchers_are_refused(variables: dict[str, str], cause: str) -> None:
    good = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    with pytest.raises(UsageError, match=cause):
        find_rendezvous(good | variables)


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    rendezvous = find_rendezvous(
        {"STEPCAST_RENDEZVOUS": str(tmp_path / "no" / "place"), "RANK": "0", "WORLD_SIZE": "1"}
    )
    assert rendezvous is not None
    with pytest.raises(UsageError, match="must name a file that rank 0 can write"):
        connect(rendezvous)
