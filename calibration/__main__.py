"""Measure this machine: ``python -m calibration``, or under ``mpiexec -n 2`` its links too."""

import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from calibration.assemble import assemble
from calibration.disk import SIZES, probe_storage
from calibration.find import local_profile
from calibration.gpu_messages import (
    MOST_ELEMENTS,
    MOST_EMULATED_ELEMENTS,
    num_gpus_a_node,
    num_messages,
    probe_device_messages,
)
from calibration.gpu_probe import GPU_PASSES, NUM_SIZES, device_provenance, probe_gpu
from calibration.importing import fit_tables, import_measurements
from calibration.machine import Machine, read_machine, write_machine
from calibration.probe import PASSES, idle, probe_kernels, probe_messages, probe_neighbour
from calibration.samples import Sample, read_samples, write_samples
from calibration.showing import show_machine
from calibration.window_probe import NUM_WINDOWS, counts_of, probe_node
from exec.cli import console, make_app, run_app
from exec.device.kind import DeviceKind
from exec.errors import MachineError, UsageError
from exec.launch import launched_ranks
from exec.runtime.backend import OnDevice
from exec.runtime.job import TransportName, run_job
from exec.runtime.opening import open_backend
from exec.runtime.report import cpu_model, num_cores, software
from exec.transport.protocol import Transport

app = make_app("python -m calibration", "Measure what compute and messages cost on this machine.")
app.command(import_measurements, name="import")
app.command(fit_tables, name="fit")
app.command(show_machine, name="show")
Flag = Annotated[bool, Parameter(negative=())]

_FULL, _QUICK = (192, 0.25, 9), (56, 0.12, 3)  # rungs, seconds on each, passes over the disk
_GPU_FULL, _GPU_QUICK, _EMULATED = (96, 0.5, 9), (40, 0.3, 3), (24, 0.02, 1)
_MESSAGES = {1: 0, 2: 22, 3: 33}  # sizes measured in a pass, by ranks
_NEIGHBOUR_SHARE = 8  # one rung in so many is measured again with a busy neighbour


@app.default
def calibrate(
    *,
    out: Path | None = None,
    name: str = "local",
    quick: Flag = False,
    if_missing: Flag = False,
    samples: Path | None = None,
    fit: list[Path] | None = None,
    storage_dir: Path | None = None,
    blas_threads: int = 1,
    device: DeviceKind = DeviceKind.CPU,
    tf32: Flag = False,
) -> None:
    """Measure what compute and messages cost on this machine, and write its Machine file.

    Alone it measures the executor's kernels; under mpiexec -n 2 or more also the links between
    the ranks, within a node and between nodes, whichever the ranks span.

    Parameters
    ----------
    out
        The Machine file; unless given, the profile that --machine local means.
    name
        The name the Machine has in forecasts.
    quick
        A quarter of the measurements, in about 20 seconds.
    if_missing
        Do nothing if the file is there already.
    samples
        Write the single measurements here too (JSON lines).
    fit
        Measure nothing, but fit the measurements in these files: several runs make one Machine.
    storage_dir
        Where to measure what checkpoints cost: a folder on the disk that they will go to; the
        temporary folder unless given.
    blas_threads
        Threads of each rank's matrix products.
    device
        What to measure: cpu, gpu, or emulated, a GPU that is none, for tests. That of a GPU is the
        profile that --machine local-gpu means.
    tf32
        Let the GPU round the factors of its products to TF32.
    """
    path = out or local_profile(device)
    if tf32 and device is DeviceKind.CPU:
        raise UsageError("tf32 needs --device gpu, got cpu")
    for option, file in (("out", out), ("samples", samples)):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise UsageError(f"{option} must be a file in a folder that exists, got {file}")
    if storage_dir is not None and not storage_dir.is_dir():
        raise UsageError(f"storage-dir must be a folder that exists, got {storage_dir}")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"machine file {path} cannot be written: {error}") from error
    if if_missing and path.is_file():
        read_machine(path)
        return
    if blas_threads < 1:
        raise UsageError(f"blas-threads must be at least 1, got {blas_threads}")

    if fit:
        _fit(fit, name, path)
        return

    def body(wire: Transport) -> None:
        with threadpool_limits(blas_threads):
            if device is DeviceKind.CPU:
                known, found = (
                    dict[str, str](),
                    _measure(wire, storage_dir, *(_QUICK if quick else _FULL)),
                )
            else:
                sizes = _EMULATED if device is DeviceKind.EMULATED else _GPU_QUICK if quick else _GPU_FULL  # fmt: skip
                known, found = _measure_device(wire, device, storage_dir, *sizes, is_tf32=tf32)
        if wire.rank:
            return
        provenance = _provenance(wire) | known
        if samples is not None:
            write_samples(samples, provenance, found)
        _finish(name, path, provenance, found)

    launched = launched_ranks(os.environ) > 1
    run_job(TransportName.MPI if launched else TransportName.THREADS, None, body)


def _fit(files: list[Path], name: str, path: Path) -> None:
    found: list[Sample] = []
    for file in files:
        provenance, own = read_samples(file)
        found += own
    needed = {"cpu", "cores", "memory_nbytes", "command", "date"}
    if provenance.get("device", DeviceKind.CPU) != DeviceKind.CPU:
        needed |= {"gpu", "gpus", "gpu_memory_nbytes", "multiprocessors"}
    if missing := needed - provenance.keys():
        raise MachineError(f"{file}, line 1 must name {', '.join(sorted(missing))}")
    _finish(name, path, provenance | {"runs": str(len(files))}, found)


def _finish(name: str, path: Path, provenance: dict[str, str], found: list[Sample]) -> None:
    cores, memory_nbytes = int(provenance["cores"]), int(provenance["memory_nbytes"])
    if "gpus" in provenance:
        cores = int(provenance["gpus"])
        memory_nbytes = cores * int(provenance["gpu_memory_nbytes"])
    machine = assemble(name, provenance, found, cores_per_node=cores, memory_nbytes=memory_nbytes)
    write_machine(machine, path)
    console().print(_summary(machine, path))


def _measure(
    wire: Transport, storage_dir: Path | None, num_rungs: int, seconds_each: float, num_writes: int
) -> list[Sample]:
    found: list[Sample] = []
    num_busy = num_rungs // _NEIGHBOUR_SHARE
    total = PASSES * (num_rungs + num_busy + _MESSAGES[min(wire.size, 3)])
    hosts = wire.gather_objects(socket.gethostname())
    total += PASSES * NUM_WINDOWS * len(counts_of(hosts.count(hosts[0])))
    total += 3 + 1 + num_writes * len(SIZES)
    with _progress(total, shown=wire.rank == 0) as progress:
        if wire.rank == 0:
            found += probe_kernels(num_rungs, seconds_each, progress)
            if num_cores() > 1:
                found += probe_neighbour(num_busy, seconds_each, progress)
            found += probe_storage(storage_dir, num_writes, progress)
        if wire.size > 1:
            idle(wire)
            found += probe_messages(wire, seconds_each / 2, progress)
            is_beside = hosts[wire.rank] == hosts[0]
            node = wire.split(int(is_beside))
            windows = probe_node(node, seconds_each / 4, progress) if is_beside else []
            found += wire.gather_objects(windows)[0]
            idle(wire)
    return found


def _measure_device(
    wire: Transport, kind: DeviceKind, storage_dir: Path | None, num_rungs: int, seconds_each: float,
    num_writes: int, *, is_tf32: bool,
) -> tuple[dict[str, str], list[Sample]]:  # fmt: skip
    """Return what is known of the device, and its samples; all ranks must call it together."""
    known: dict[str, str] = {}
    found: list[Sample] = []
    total = GPU_PASSES * num_rungs + NUM_SIZES + 1 + num_writes * len(SIZES)
    total += PASSES * num_messages(wire.size)
    with _progress(total, shown=wire.rank == 0) as progress:
        if wire.rank == 0:
            known = device_provenance(kind, is_tf32=is_tf32)
            found += probe_gpu(kind, num_rungs, seconds_each, progress, is_tf32=is_tf32)
            found += probe_storage(storage_dir, num_writes, progress)
        if wire.size > 1:
            idle(wire)
            backend = open_backend(kind, wire, is_tf32=is_tf32)
            assert isinstance(backend, OnDevice)
            most = MOST_EMULATED_ELEMENTS if kind is DeviceKind.EMULATED else MOST_ELEMENTS
            found += probe_device_messages(backend.transport, seconds_each / 2, progress, most)
            known |= {"gpus": str(num_gpus_a_node(backend.transport)), "wire": backend.transport.library}  # fmt: skip
    return known, found


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Callable[[str], None]]:
    """Yield what advances a bar on a terminal, or elsewhere prints a line now and then."""
    err = Console(stderr=True, highlight=False)
    if not shown or not err.is_terminal:
        done = 0

        def advance(what: str) -> None:
            nonlocal done
            done += 1
            if shown and done % 10 == 1:
                err.print(f"calibrating: {done} of {total}: {what}")

        yield advance
        return
    columns = (TextColumn("calibrating"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))  # fmt: skip
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda what: bar.update(task, advance=1, description=what)


def _provenance(wire: Transport) -> dict[str, str]:
    command = shlex.join(["python", "-m", "calibration", *sys.argv[1:]])
    prefix = f"mpiexec -n {wire.size} " if wire.size > 1 else ""
    return {
        "cpu": cpu_model(),
        "cores": str(num_cores()),
        "memory_nbytes": str(_memory_nbytes()),
        **software(),
        "transport": wire.library,
        "command": prefix + command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _memory_nbytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _summary(machine: Machine, path: Path) -> str:
    compute = machine.compute
    assert compute is not None
    lines = [f"{machine.name}: {machine.description}, written to {path}"]
    lines += [
        f"  {kernel:22s} {model.coefficients_s['fixed'] * 1e6:7.2f} us and more with size, "
        f"+-{model.rel_sigma:.0%} over {model.num_samples} shapes"
        for kernel, model in compute.kernels.items()
    ]
    if compute.device.has_streams:
        lines.append(f"  a launch: {compute.launch_s * 1e6:.2f} us; a step: {compute.step_overhead_s * 1e6:.2f} us and its ops; "
                     f"noise {compute.noise_rel_sigma:.1%}; TF32 {'on' if compute.is_tf32 else 'off'}")  # fmt: skip
    else:
        lines.append(f"  all cores busy: {compute.busy_slowdown:.2f} x the time; "
                     f"step-time noise {compute.noise_rel_sigma:.1%}")  # fmt: skip
    for direction, curve in machine.copies.items():
        lines.append(f"  a copy {direction}: {curve.at(8)[0] * 1e6:.2f} us and {1e-9 / max(curve.at(1 << 26)[1], 1e-15):.2f} GB/s")  # fmt: skip
    for tier, link in machine.links.items():
        alpha_s = link.message.at(8)[0]
        beta = max(link.message.at(1 << 23)[1], 1e-15)
        lines.append(f"  {tier}: {alpha_s * 1e6:.2f} us and {1e-9 / beta:.2f} GB/s a message, "
                     f"+-{link.message.rel_sigma:.0%}")  # fmt: skip
    if not machine.links:
        lines.append("  no links measured: run it under mpiexec -n 2 for those")
    else:
        lines.append(f"  overlap of communication with compute: {machine.overlap_share:.0%}")
    if machine.storage is not None:
        storage = machine.storage
        lines.append(f"  a checkpoint: {storage.fixed_s * 1e3:.2f} ms and {1e-9 / max(storage.s_per_byte, 1e-15):.2f} GB/s, "
                     f"+-{storage.rel_sigma:.0%}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    run_app(app)
