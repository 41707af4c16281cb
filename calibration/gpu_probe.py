"""The probe of one GPU: kernels inside real training steps, launches, and copies to and from the host.

Ops are timed by events while the host is far ahead, so that no launch shows; whole steps as they
are trained, one after the other.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from time import perf_counter

import numpy as np

from calibration.ladder import bounds_for, ladder
from calibration.machine import CopyDirection
from calibration.samples import CopySample, KernelSample, LaunchSample, Sample, StepSample
from exec.data.noise import noise_dataset
from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.device.protocol import Call, Device, Stream
from exec.gpu.elementwise import accumulate
from exec.gpu.transposed import copy_transposed
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.program.ops import Compute, Kernel, Shape
from exec.runtime.backend import OnDevice
from exec.runtime.opening import open_backend
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload

Progress = Callable[[str], None]

GPU_PASSES = 2
NUM_SIZES = 4  # of what is measured beside the ladder: sums, copies, transposed copies, launches
_MAX_SAMPLES, _MAX_ELEMENTS = 20_000, 8_000_000
_FEW_BATCHES = 16  # below it an epoch is too short to tell what a step takes
_LEARNING_RATE = 1e-4  # small, lest weights that learn from noise overflow
_TIMED, _REPEATS, _NUM_LAUNCHES = 6, 8, 200
_HELD_US = 100  # long enough for the host to enqueue what is timed
_TRANSPOSED_ROWS = 64
_WARM_SIDE, _WARM_S = 4096, 1.0


def probe_gpu(
    kind: DeviceKind, num_rungs: int, seconds_each: float, progress: Progress, *, is_tf32: bool = False
) -> list[Sample]:  # fmt: skip
    """Return samples of every kernel of the device, of launches and of copies.

    Raises:
        DeviceError: there is no such device.
    """

    def probe(wire: Transport) -> list[Sample]:
        backend = open_backend(kind, wire, is_tf32=is_tf32)
        assert isinstance(backend, OnDevice)
        found: list[Sample] = []
        _warm_up(backend.device, kind)
        for workload in ladder(num_rungs, bounds=bounds_for(kind)) * GPU_PASSES:
            progress(f"kernels of {workload.net}, batch {workload.global_batch}")
            found += _time_step(wire, backend, workload, seconds_each / GPU_PASSES, is_tf32=is_tf32)
        sizes = _sizes(kind)
        progress("sums")
        found += _time_accumulate(backend.device, sizes)
        progress("transposed copies")
        found += _time_transpose(backend.device, sizes)
        progress("launches")
        found.append(_time_launches(backend.device))
        progress("copies")
        found += _time_copies(backend.device, sizes)
        backend.device.close()
        return found

    return run_threads(1, probe)[0]


def device_provenance(kind: DeviceKind, *, is_tf32: bool) -> dict[str, str]:
    """Return what the samples of a device must say of it, and the libraries it uses.

    Raises:
        DeviceError: there is no such device.
    """
    device = open_device(kind, 0, is_tf32=is_tf32)
    try:
        return {
            "device": kind,
            "gpu": device.name,
            "gpus": "1",
            "gpu_memory_nbytes": str(device.memory()[1]),
            "multiprocessors": str(device.num_multiprocessors),
            "tf32": "on" if device.is_tf32 else "off",
            **device.software,
        }
    finally:
        device.close()


def _warm_up(device: Device, kind: DeviceKind) -> None:
    """Let a GPU multiply until its clock is the one that it works at."""
    if kind is DeviceKind.EMULATED:
        return
    stream = device.stream()
    factor, product = (
        device.upload(np.ones((_WARM_SIDE, _WARM_SIDE), np.float32)) for _ in range(2)
    )
    multiply = stream.bind_product(factor, factor, product)
    end_s = perf_counter() + _WARM_S
    while perf_counter() < end_s:
        multiply()
        stream.synchronize()


def _sizes(kind: DeviceKind) -> list[int]:
    """Return numbers of elements."""
    most = 11 if kind is DeviceKind.EMULATED else 25
    return [1 << power for power in range(7, most + 1)]


def _time_step(
    wire: Transport, backend: OnDevice, workload: Workload, seconds: float, *, is_tf32: bool
) -> list[Sample]:
    """Return the median time of every kernel inside steps of ``workload``, and of the whole step."""
    network, batch = workload.network, workload.global_batch
    num_batches = max(1, min(_MAX_SAMPLES, _MAX_ELEMENTS // network.num_features) // batch)
    if backend.kind is DeviceKind.EMULATED:
        num_batches = min(num_batches, _FEW_BATCHES)
    dataset = noise_dataset(network.image, network.num_classes, num_batches * batch, 1, seed=0)
    plan = TrainingPlan(
        workload, Mesh(), PlanOptions(device=backend.kind), learning_rate=_LEARNING_RATE,
        momentum=0.9 if workload.has_momentum else 0.0, is_tf32=is_tf32,
    )  # fmt: skip
    session = Session(plan, dataset, wire, backend=backend)
    ops = {op.id: op for op in session.program.ops(0) if isinstance(op, Compute)}
    indices = np.arange(batch)
    for _ in range(3):  # what is compiled or captured at first is not timed
        session.do_step(indices)
    session.synchronize()
    if num_batches < _FEW_BATCHES:
        steps_s = _blocks(session, indices, seconds)
    else:
        steps_s = _epochs(session, seconds)
    known = len(session.spans)
    for _ in range(_TIMED):
        session.do_step(indices, is_timed=True)
    times: dict[str, list[float]] = defaultdict(list)
    for span in session.spans[known:]:
        if span.name in ops:
            times[span.name].append(span.duration_s)
    medians = {id: statistics.median(each) for id, each in times.items()}
    held = session.program.role_of(0).nbytes
    session.close()
    found: list[Sample] = [_sample(ops[id].kernel, ops[id].shape, held, each) for id, each in medians.items()]  # fmt: skip
    step_s = statistics.median(steps_s)
    tenths = statistics.quantiles(steps_s, n=10)
    found.append(StepSample(
        net=workload.net, batch=batch, is_neighbour_busy=False, time_s=step_s,
        ops_s=sum(medians.values()), num_ops=len(medians),
        rel_sigma=(tenths[-1] - tenths[0]) / 2.56 / step_s,
    ))  # fmt: skip  # ten to ninety per cent are 2.56 standard deviations
    return found


def _epochs(session: Session, seconds: float) -> list[float]:
    """Return the times of steps as they are trained."""
    end_s, epoch = perf_counter() + seconds, 0
    while epoch == 0 or perf_counter() < end_s:
        epoch += 1
        session.run_epoch(epoch)
    return session.step_times_s()


def _blocks(session: Session, indices: np.ndarray, seconds: float) -> list[float]:
    """Return the mean times of steps in blocks between two waits for the device."""
    start_s = perf_counter()
    session.do_step(indices)
    session.synchronize()
    block = max(4, min(64, int(seconds / 8 / (perf_counter() - start_s))))
    times_s: list[float] = []
    end_s = perf_counter() + seconds
    while len(times_s) < 3 or perf_counter() < end_s:
        start_s = perf_counter()
        for _ in range(block):
            session.do_step(indices)
        session.synchronize()
        times_s.append((perf_counter() - start_s) / block)
    return times_s


def _sample(kernel: Kernel, shape: Shape, held: int, time_s: float) -> KernelSample:
    return KernelSample(kernel=kernel, **asdict(shape), working_set=held, time_s=time_s)


def _time_accumulate(device: Device, sizes: Sequence[int]) -> list[Sample]:
    stream, found = device.stream(), list[Sample]()
    for elements in sizes:
        into, source = (device.upload(np.ones(elements, np.float32)) for _ in range(2))
        time_s = event_time_s(stream, accumulate(stream, into, source))
        found.append(_sample(Kernel.ACCUMULATE, Shape(0, 0, elements), 8 * elements, time_s))
    return found


def _time_transpose(device: Device, sizes: Sequence[int]) -> list[Sample]:
    stream, found = device.stream(), list[Sample]()
    for elements in sizes:
        rows, columns = _TRANSPOSED_ROWS, elements // _TRANSPOSED_ROWS
        one, other = (device.upload(np.ones(shape, np.float32)) for shape in ((rows, columns), (columns, rows)))  # fmt: skip
        shape = Shape(rows, 0, columns)
        for kernel, source, target in ((Kernel.TRANSPOSE, other, one), (Kernel.TRANSPOSE_BACKWARD, one, other)):  # fmt: skip
            time_s = event_time_s(stream, copy_transposed(stream, source, target))
            found.append(_sample(kernel, shape, 8 * elements, time_s))
    return found


def _time_launches(device: Device) -> LaunchSample:
    """Return what one more kernel costs a graph: it does next to nothing."""
    stream, array = device.stream(), device.upload(np.zeros(1, np.float32))
    fill = stream.bind_kernel("fill", np.float32, (1,), (1,), array, 1, 1.0)

    def fill_often() -> None:
        for _ in range(_NUM_LAUNCHES):
            fill()

    graph = stream.capture(fill_often)
    time_s = event_time_s(stream, lambda: graph.launch(stream))
    return LaunchSample(num_launches=_NUM_LAUNCHES, time_s=time_s / _NUM_LAUNCHES)


def _time_copies(device: Device, sizes: Sequence[int]) -> list[Sample]:
    stream, found = device.stream(), list[Sample]()
    for elements in sizes:
        host, array = device.pinned(elements, np.float32), device.empty(elements, np.float32)
        for direction, call in (
            (CopyDirection.TO_DEVICE, stream.bind_copy(host, array)),
            (CopyDirection.TO_HOST, stream.bind_copy(array, host)),
        ):
            time_s = event_time_s(stream, call)
            found.append(CopySample(direction=direction, nbytes=4 * elements, time_s=time_s))
    return found


def event_time_s(stream: Stream, call: Call) -> float:
    """Return the median time that the device takes for what ``call`` enqueues."""
    device, times_s = stream.device, list[float]()
    spin = stream.bind_kernel("spin", np.float32, (1,), (1,), _HELD_US)
    for _ in range(_REPEATS):
        spin()
        before = stream.record(is_timed=True)
        call()
        after = stream.record(is_timed=True)
        stream.synchronize()
        times_s.append(device.elapsed_s(before, after))
    return statistics.median(times_s[1:])
