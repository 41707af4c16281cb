"""What MPI ranks do with shared windows: ``mpiexec -n P python -m tests.exec.transport.window_job``."""

from pathlib import Path

import pytest

from exec.errors import TransportError
from exec.runtime.job import TransportName, run_job
from exec.transport.protocol import Transport


def _num_maps() -> int:
    return len(Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())


def _share(wire: Transport) -> None:
    for i in range(40):
        if i == 8:
            before = _num_maps()
        group = wire.split(0)
        windows = group.share(1 << 20, "float64")
        assert not windows[wire.rank].any()
        windows[wire.rank][:] = 1.0
        wire.gather_objects(None)
        del windows
        group.close()
    assert _num_maps() < before + 16, "memory that was shared is not given back"


def _body(wire: Transport) -> None:
    assert wire.shareable_nbytes() > 0
    _share(wire)
    too_much = wire.shareable_nbytes() // 8 * 2
    with pytest.raises(
        TransportError, match=r"^shared memory needs .* MiB in /dev/shm, got .* free; "
    ):
        wire.share(too_much, "float64")
    wire.gather_objects(None)
    if wire.rank == 0:
        print("shared and given back")


if __name__ == "__main__":
    run_job(TransportName.MPI, None, _body)
