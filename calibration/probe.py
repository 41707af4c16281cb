"""The probe: runs the executor's own kernels and transports, and times them.

It and :mod:`calibration.disk` are the impure files of calibration.

Kernels are timed where they will be used, inside training steps, so that what a step evicts from
the caches is evicted here too.
"""

import socket
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from time import perf_counter, sleep

import numpy as np

from calibration.ladder import ladder
from calibration.machine import Tier
from calibration.samples import KernelSample, MessageSample, OverlapSample, Sample, StepSample
from exec.data.noise import noise_dataset
from exec.network.network import INPUT, mlp
from exec.nn.backend import xp
from exec.nn.transposed import copy_transposed
from exec.noise import quantiles_of
from exec.plan.layout import layout_of
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Collective,
    CollectiveKind,
    Compute,
    Kernel,
    Lane,
    Op,
    Receive,
    Send,
    Shape,
    Wait,
)  # fmt: skip
from exec.program.peers import Part, Shift
from exec.program.program import Program, Role
from exec.runtime.buffers import Buffers, Numbers
from exec.runtime.comm import Queue, Wire
from exec.runtime.kernels import Feed, KernelBinder
from exec.runtime.session import Session
from exec.runtime.step import Step, bind_step
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload

Progress = Callable[[str], None]

PASSES = 3
_MAX_SAMPLES, _MAX_ELEMENTS = 20_000, 8_000_000
_OF_DENSE = (
    Kernel.LINEAR, Kernel.LINEAR_BACKWARD, Kernel.LINEAR_BACKWARD_FIRST, Kernel.LOSS, Kernel.UPDATE,
)  # fmt: skip
_LEARNING_RATE = 1e-4  # small, lest weights that learn from noise overflow
_ACCUMULATED = (64, 512, 4096, 16_384, 65_536, 262_144, 1 << 20, 1 << 22)
_TRANSPOSED = (
    (1, 1024), (4, 64), (16, 256), (64, 512), (256, 64), (64, 4096), (256, 1024), (32, 16_384),
    (256, 8192), (128, 65_536),
)  # fmt: skip
_MESSAGE_ELEMENTS = (1, 16, 128, 512, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20, 1 << 21)
_RESTED_ELEMENTS = (4096, 8192, 16_384, 32_768, 65_536)
_NUM_RESTS, _REST_S = 7, 0.02
_OVERLAP_ELEMENTS = 1 << 20
_SLEEP_S = 0.005


def probe_kernels(num_rungs: int, seconds_each: float, progress: Progress) -> list[Sample]:
    """Return samples of every kernel, alone on the machine, from a ladder of training steps.

    The ladder is climbed ``PASSES`` times, so that a disturbance that lasts does not spoil all that
    is known of a shape.
    """
    found: list[Sample] = []
    for workload in ladder(num_rungs) * PASSES:
        progress(f"kernels of {workload.net}, batch {workload.global_batch}")
        samples = time_step(workload, seconds_each / PASSES, is_neighbour_busy=False)
        is_flat = workload.network.shape(INPUT)[1:] == (1, 1)
        found += [each for each in samples if is_flat or not _is_of_dense(each)]
    progress("sums")
    found += _time_accumulate(seconds_each)
    progress("transposed copies")
    found += _time_transpose(seconds_each)
    return found


def probe_neighbour(num_rungs: int, seconds_each: float, progress: Progress) -> list[Sample]:
    """Return whole steps of the first rungs while a second process trains beside this one."""
    found: list[Sample] = []
    with _busy_neighbour():
        for workload in ladder(num_rungs) * PASSES:
            progress(f"{workload.net} with a busy neighbour")
            samples = time_step(workload, seconds_each / PASSES, is_neighbour_busy=True)
            found += [sample for sample in samples if isinstance(sample, StepSample)]
    return found


def time_step(workload: Workload, seconds: float, *, is_neighbour_busy: bool) -> list[Sample]:
    """Return the median time of every kernel inside steps of ``workload``, and of the whole step."""
    return run_threads(1, lambda wire: _time_step(wire, workload, seconds, is_neighbour_busy))[0]


def _time_step(
    wire: Transport, workload: Workload, seconds: float, is_neighbour_busy: bool
) -> list[Sample]:
    network, batch = workload.network, workload.global_batch
    num_batches = max(1, min(_MAX_SAMPLES, _MAX_ELEMENTS // network.num_features) // batch)
    num_samples = num_batches * batch
    dataset = noise_dataset(network.image, network.num_classes, num_samples, 1, seed=0)
    momentum = 0.9 if workload.has_momentum else 0.0
    plan = TrainingPlan(workload, Mesh(), learning_rate=_LEARNING_RATE, momentum=momentum)
    session = Session(plan, dataset, wire)
    ops = {op.id: op for op in session.program.ops(0) if isinstance(op, Compute)}
    generator = np.random.Generator(np.random.PCG64(0))
    plain_s: list[float] = []
    end_s = perf_counter() + seconds
    while perf_counter() < end_s or len(plain_s) < 3:
        indices = generator.integers(0, num_samples, batch)
        start_s = perf_counter()
        session.do_step(indices)
        plain_s.append(perf_counter() - start_s)
        session.do_step(generator.integers(0, num_samples, batch), is_timed=True)
    times: dict[str, list[float]] = defaultdict(list)
    for span in session.spans:
        times[span.name].append(span.duration_s)
    medians = {id: statistics.median(each[1:]) for id, each in times.items()}
    held = session.buffers.nbytes
    found: list[Sample] = [
        _sample(ops[id].kernel, ops[id].shape, held, time_s) for id, time_s in medians.items()
    ]
    tenths = statistics.quantiles(plain_s[1:], n=10)
    step_s = statistics.median(plain_s[1:])
    quantiles, tail = quantiles_of(plain_s[1:])
    found.append(StepSample(
        net=workload.net, batch=batch, is_neighbour_busy=is_neighbour_busy, time_s=step_s,
        ops_s=sum(medians.values()), rel_sigma=(tenths[-1] - tenths[0]) / 2.56 / step_s,
        quantiles=quantiles, tail=tail,
    ))  # fmt: skip  # ten to ninety per cent are 2.56 standard deviations
    return found


def _is_of_dense(sample: Sample) -> bool:
    """Say whether ``sample`` is to be measured among dense layers only.

    After convolutions, which leave nothing of it in the caches, it costs more, but a small share.
    """
    return isinstance(sample, KernelSample) and sample.kernel in _OF_DENSE


def _sample(kernel: Kernel, shape: Shape, held: int, time_s: float) -> KernelSample:
    return KernelSample(kernel=kernel, **asdict(shape), working_set=held, time_s=time_s)


@contextmanager
def _busy_neighbour() -> Iterator[None]:
    """Keep another process training, as a neighbour on the node would."""
    command = [sys.executable, "-m", "calibration.neighbour"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # it is training now
        try:
            yield
        finally:
            process.stdin.close()


def _time_accumulate(seconds: float) -> list[Sample]:
    found: list[Sample] = []
    for elements in _ACCUMULATED:
        part, scratch = Part("grad", 0, elements), Part("scratch", 0, elements)
        step, held = run_threads(1, lambda wire: bind_ops(wire, (Accumulate(part, scratch),)))[0]  # noqa: B023  # called now
        time_s = statistics.median(_repeat(step.run, seconds / 4))
        found.append(_sample(Kernel.ACCUMULATE, Shape(0, 0, elements), held, time_s))
    return found


def _time_transpose(seconds: float) -> list[Sample]:
    found: list[Sample] = []
    for samples, features in _TRANSPOSED:
        rows, columns = np.ones((samples, features), np.float32), np.ones((features, samples), np.float32)  # fmt: skip
        shape, held = Shape(samples, 0, features), 2 * rows.nbytes
        for kernel, source, target in (
            (Kernel.TRANSPOSE, columns, rows),
            (Kernel.TRANSPOSE_BACKWARD, rows, columns),
        ):
            times_s = _repeat(partial(copy_transposed, source, target), seconds / 8)
            found.append(_sample(kernel, shape, held, statistics.median(times_s)))
    return found


def bind_ops(
    wire: Transport, ops: tuple[Op, ...], elements: int = 0,
    shared: dict[str, dict[int, Numbers]] | None = None,
) -> tuple[Step, int]:  # fmt: skip
    """Return ``ops`` bound for every rank of ``wire``, along the dp axis, and the bytes held.

    Buffers have ``elements``, or as many as the ops need; ``shared`` are those in shared memory.
    """
    elements = elements or max(part.stop for op in ops for part in _parts(op))
    mesh = Mesh(dp=wire.size)
    holds = tuple(Part(name, 0, elements) for name in ("param", "grad"))
    role = Role("probe", range(wire.size), range(1), range(1), ops, holds=holds)
    program = Program(mesh, 4, (role,))
    workload = Workload(mlp(-(-elements // 2), 2), 1)
    layout = layout_of(workload.network, mesh, 0, 0)
    buffers = Buffers(workload, layout, role, 0, elements, "float32", wire.rank, shared or {})
    feed = Feed(xp.zeros((1, 1)), xp.zeros(1, int), xp.zeros(1, int))
    binder = KernelBinder(buffers, feed, 0.0, 0.0, 1, (0,), (0,))
    step = bind_step(program, Wire.connect(wire, [program]), buffers, binder, Queue(1, 0))
    return step, 2 * elements * program.itemsize


def _parts(op: Op) -> tuple[Part, ...]:
    match op:
        case Accumulate(into, source):
            return into, source
        case Send() | Receive() | Collective():
            return (op.part,)
        case _:
            return ()


def _repeat(call: Callable[[], object], seconds: float) -> list[float]:
    """Return times of ``call``, measured in blocks long enough for the clock."""
    block = 1
    while True:
        start_s = perf_counter()
        for _ in range(block):
            call()
        if perf_counter() - start_s > min(1e-3, seconds / 8):
            break
        block *= 2
    times_s: list[float] = []
    end_s = perf_counter() + seconds
    while perf_counter() < end_s or len(times_s) < 5:
        start_s = perf_counter()
        for _ in range(block):
            call()
        times_s.append((perf_counter() - start_s) / block)
    return times_s


def probe_messages(wire: Transport, seconds_each: float, progress: Progress) -> list[Sample]:
    """Return exchanges and library all-reduces over each tier that the ranks of ``wire`` span.

    All ranks must call it together; the samples are rank 0's.
    """
    hosts = wire.gather_objects(socket.gethostname())
    found: list[Sample] = []
    for tier, pair in pairs_of(hosts).items():
        colors = wire.split(int(wire.rank in pair))
        if wire.rank in pair:
            found += _time_pair(colors, tier, seconds_each, progress)
        idle(wire)
    if wire.size > 2:
        tier = Tier.NETWORK if len(set(hosts)) > 1 else Tier.NODE
        for _ in range(PASSES):
            found += _time_messages(wire, "allreduce", tier, seconds_each / PASSES, progress)
    return wire.gather_objects(found)[0]


def pairs_of(hosts: list[str]) -> dict[Tier, tuple[int, int]]:
    """Return two ranks that meet at each tier; rank 0 is one of each pair."""
    pairs: dict[Tier, tuple[int, int]] = {}
    for other, host in enumerate(hosts[1:], 1):
        pairs.setdefault(Tier.NODE if host == hosts[0] else Tier.NETWORK, (0, other))
    return pairs


def _time_pair(pair: Transport, tier: Tier, seconds: float, progress: Progress) -> list[Sample]:
    found: list[Sample] = []
    for _ in range(PASSES):
        found += _time_messages(pair, "exchange", tier, seconds / PASSES, progress)
        found += _time_messages(pair, "allreduce", tier, seconds / PASSES, progress)
        if tier is Tier.NETWORK:
            found += _time_rested(pair, progress)
    return [*found, _time_overlap(pair, tier, progress)]


def _time_messages(
    wire: Transport, kind: str, tier: Tier, seconds: float, progress: Progress
) -> list[Sample]:
    found: list[Sample] = []
    for elements in _MESSAGE_ELEMENTS:
        part = Part("grad", 0, elements)
        ops: tuple[Op, ...]
        if kind == "exchange":
            ops = _exchange(elements)
        else:
            ops = (Collective("sum", CollectiveKind.ALLREDUCE, part, Axis.DP),)
        step, _ = bind_ops(wire, ops)
        progress(f"{kind} of {4 * elements} bytes between {wire.size} ranks")
        time_s = statistics.median(repeat_together(wire, step, seconds))
        found.append(MessageSample(kind=kind, tier=tier, ranks=wire.size, nbytes=4 * elements, time_s=time_s))  # type: ignore[arg-type]  # fmt: skip  # one of the two kinds
    return found


def _exchange(elements: int) -> tuple[Op, ...]:
    return (
        Send("out", Part("grad", 0, elements), Shift(Axis.DP, 1), 1),
        Receive("in", Part("scratch", 0, elements), Shift(Axis.DP, -1), 1),
        Wait(Lane.COMM, "out"),
    )


def _time_rested(pair: Transport, progress: Progress) -> list[Sample]:
    """Return exchanges over a link that has rested: by what they are faster, it saved up."""
    found: list[Sample] = []
    for elements in _RESTED_ELEMENTS:
        step, _ = bind_ops(pair, _exchange(elements))
        progress(f"exchange of {4 * elements} bytes after a rest")
        times_s = []
        for _ in range(_NUM_RESTS):
            pair.gather_objects(None)
            sleep(_REST_S)
            pair.gather_objects(None)
            start_s = perf_counter()
            step.run()
            times_s.append(max(pair.gather_objects(perf_counter() - start_s)))
        found.append(MessageSample(kind="rested", tier=Tier.NETWORK, ranks=2, nbytes=4 * elements, time_s=statistics.median(times_s)))  # fmt: skip
    return found


def repeat_together(wire: Transport, step: Step, seconds: float) -> list[float]:
    """Return step times in blocks whose number all ranks agree on beforehand."""
    for _ in range(3):
        step.run()
    start_s = perf_counter()
    for _ in range(5):
        step.run()
    each_s = max(wire.gather_objects((perf_counter() - start_s) / 5))
    block = max(1, int(1e-3 / each_s))
    times_s = []
    for _ in range(max(5, int(seconds / (each_s * block)))):
        start_s = perf_counter()
        for _ in range(block):
            step.run()
        times_s.append((perf_counter() - start_s) / block)
    return times_s


def _time_overlap(wire: Transport, tier: Tier, progress: Progress) -> OverlapSample:
    """Compute twice as long as an all-reduce takes, and see how much of it is left to wait for."""
    progress("overlap of an all-reduce with compute")
    array = np.zeros(_OVERLAP_ELEMENTS, np.float32)
    kind, factor = CollectiveKind.ALLREDUCE, np.ones((64, 64), np.float32)
    blocking_s, left_s = [], []
    for _ in range(15):
        wire.gather_objects(None)
        start_s = perf_counter()
        wire.run_collective(kind, array, [], 0)
        blocking_s.append(perf_counter() - start_s)
        wire.gather_objects(None)
        request = wire.start_collective(kind, array, [], 0)
        end_s = perf_counter() + 2 * statistics.median(blocking_s)
        while perf_counter() < end_s:
            np.dot(factor, factor)
        start_s = perf_counter()
        request.Wait()
        left_s.append(perf_counter() - start_s)
    return OverlapSample(tier=tier, nbytes=array.nbytes, blocking_s=statistics.median(blocking_s), left_s=statistics.median(left_s))  # fmt: skip


def idle(wire: Transport) -> None:
    """Return when all ranks have come, asleep until then: a spinning rank would disturb the others."""
    request = wire.start_collective(CollectiveKind.BARRIER, np.zeros(1), [], 0)
    while not request.Test():
        sleep(_SLEEP_S)
