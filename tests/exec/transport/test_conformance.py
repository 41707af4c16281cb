"""One conformance suite, all transports."""

from collections.abc import Sequence

import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import count_devices, open_device
from exec.transport.staged import StagedTransport
from exec.transport.threads import ThreadTransport, run_threads
from tests.conftest import Finished, Launch
from tests.exec.transport.conformance import CASES, NCCL_CASES
from tests.exec.transport.device_conformance import DEVICE_CASES
from tests.exec.transport.on_devices import run_on_devices
from tests.exec.transport.placed import Case


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_threads_conform(case: Case, ranks: int) -> None:
    run_threads(ranks, case)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("case", [*CASES, *DEVICE_CASES], ids=lambda case: case.__name__)
def test_staged_threads_conform(case: Case, ranks: int, device_kind: DeviceKind) -> None:
    def body(wire: ThreadTransport) -> None:
        # A GPU is shared by all ranks; of emulated devices each rank has its own.
        index = wire.rank if device_kind is DeviceKind.EMULATED else 0
        device = open_device(device_kind, index, seed=wire.rank + 1)
        case(StagedTransport(wire, device))
        wire.gather_objects(None)  # nobody uses what is given back
        device.close()

    run_threads(ranks, body)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("case", [*NCCL_CASES, *DEVICE_CASES], ids=lambda case: case.__name__)
def test_nccl_conforms(case: Case, ranks: int, device_kind: DeviceKind) -> None:
    for seed in (1, 2, 3) if case in DEVICE_CASES else (1,):
        run_on_devices(device_kind, ranks, case, seed=seed)


def check_processes(ended: Finished, cases: Sequence[Case]) -> None:
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines() == [f"conforms: {case.__name__}" for case in cases]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_mpi_conforms(launch: Launch, ranks: int) -> None:
    check_processes(launch(ranks, "tests.exec.transport.conformance"), CASES)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_staged_mpi_conforms(launch: Launch, ranks: int, device_kind: DeviceKind) -> None:
    ended = launch(ranks, "tests.exec.transport.device_conformance", "staged", device_kind)
    check_processes(ended, [*CASES, *DEVICE_CASES])


@pytest.mark.mpi
@pytest.mark.gpu
def test_nccl_between_processes_conforms(launch: Launch, device_kind: DeviceKind) -> None:
    if device_kind is not DeviceKind.GPU:
        pytest.skip("emulated devices form groups in one process only")
    ranks = count_devices(device_kind)
    ended = launch(ranks, "tests.exec.transport.device_conformance", "nccl", "gpu")
    check_processes(ended, [*NCCL_CASES, *DEVICE_CASES])


@pytest.mark.mpi
def test_windows_are_given_back_and_too_large_ones_refused_in_words(launch: Launch) -> None:
    ended = launch(2, "tests.exec.transport.window_job", timeout_s=60)
    assert ended.stdout == "shared and given back\n", ended.stderr
