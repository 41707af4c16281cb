"""Train the network: ``python -m exec.train``, alone, or under ``mpiexec -n P``."""

import json as json_format
import math
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from threadpoolctl import threadpool_limits

from exec.cli import console, make_app, run_app
from exec.device.kind import DeviceKind
from exec.errors import ModelFileError, UsageError
from exec.network.parse import parse_net
from exec.nn.backend import DTYPES
from exec.noise import parse_noise
from exec.plan.epoch import check_plan, idle_options
from exec.plan.nodes import check_nodes
from exec.plan.options import PlanOptions, parse_every, parse_slow
from exec.plan.schedule import Schedule
from exec.plan.stages import parse_stages
from exec.plan.strategy import Strategy, mesh_of
from exec.program.ops import Algorithm
from exec.runtime.checkpoint.store import KEEP
from exec.runtime.checkpoint.training import CheckpointOptions, open_checkpoints
from exec.runtime.job import (
    AgreedError,
    TransportName,
    choose_transport,
    run_job,
    started_ranks,
    together,
)
from exec.runtime.model_file import load_weights
from exec.runtime.monitor import Monitor
from exec.runtime.opening import backend_of
from exec.runtime.outputs import Files, save_model, write_files
from exec.runtime.pace import Pacing, read_pace
from exec.runtime.placement import placed, placement_note
from exec.runtime.record import device_line, headline, summary, training_record
from exec.runtime.replay import check_arrivals, read_arrivals
from exec.runtime.report import (
    is_oversubscribed,
    num_cores,
)  # fmt: skip
from exec.runtime.session import Epoch, Session
from exec.runtime.source import Source
from exec.runtime.training_plan import TrainingPlan
from exec.runtime.utilisation_plot import check_plot
from exec.runtime.weights import scatter_weights
from exec.transport.protocol import Transport
from exec.transport.threads import THREADS
from exec.workload import Workload, positive

app = make_app("python -m exec.train", "Train a network from scratch, alone or under mpiexec.")

Flag = Annotated[bool, Parameter(negative=())]


@app.default
def train(
    *,
    net: str = "128-100-26",
    data: str = "drawn",
    data_dir: Path | None = None,
    test_file: Path | None = None,
    fold: int = 0,
    num_train: int | None = None,
    num_test: int | None = None,
    strategy: Strategy | None = None,
    ranks: int | None = None,
    dp: int | None = None,
    pp: int | None = None,
    tp: int | None = None,
    microbatches: int = 1,
    schedule: Schedule = Schedule.ONE_F_ONE_B,
    algorithm: Algorithm | None = None,
    ranks_per_node: int | None = None,
    overlap: Flag = False,
    bucket_kib: int = 4096,
    stages: str | None = None,
    sync_batchnorm: Flag = False,
    average_every: str = "1",
    independent_starts: Flag = False,
    servers: int = 1,
    slow: tuple[str, ...] = (),
    pace: Path | None = None,
    noise: str | None = None,
    arrivals: Path | None = None,
    replay: Path | None = None,
    batch: int | None = None,
    batch_per_rank: int | None = None,
    epochs: int = 5,
    learning_rate: Annotated[float, Parameter(name=("--learning-rate", "--lr"))] = 0.5,
    momentum: float = 0.0,
    dtype: str = "float32",
    device: DeviceKind = DeviceKind.CPU,
    tf32: Flag = False,
    seed: int = 0,
    transport: TransportName = TransportName.AUTO,
    blas_threads: int = 1,
    load: Path | None = None,
    save: Path | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: str | None = None,
    keep: int | None = None,
    resume: Flag = False,
    trace: Path | None = None,
    monitor: Flag = False,
    monitor_plot: Path | None = None,
    json: Flag = False,
) -> None:
    """Train a network from scratch, alone or under mpiexec.

    Parameters
    ----------
    net
        Widths of dense layers (128-100-26); cnn, svhn-cnn, resnet18 or resnet18-small, for other
        images as cnn:1x16x8:26; or the path of a network file (TOML; of ONNX the shapes only).
    data
        drawn (letters the project draws itself), letters, mnist, svhn (house numbers in colour),
        noise (random, any width), or the path of a label-first CSV file.
    data_dir
        Where the real data sets lie; without it they are downloaded into a cache.
    test_file
        The CSV file to test on.
    fold
        Which fold of letters tests.
    num_train
        Train on the first so many samples of a file, all unless given; or draw so many (drawn,
        noise), 20000 unless given.
    num_test
        Test on so many in the same way; 4000 drawn unless given.
    strategy
        How to share the work; data if there are several ranks. Beside the meshes: averaging (each
        rank on its own, weights averaged now and then), krizhevsky (convolutions split the batch,
        dense layers are split themselves), master_round_trip and master_broadcast
        (rank 0 collects and averages), server and async_server (parameter servers), and on one
        node's shared memory shared_lock, shared_windows and hogwild.
    ranks
        Run this many ranks as threads, without MPI.
    dp
        Replicas of a hybrid.
    pp
        Pipeline stages of a hybrid.
    tp
        Shards of each layer of a hybrid.
    microbatches
        Parts into which each replica's batch is cut for the pipeline.
    schedule
        The pipeline's schedule.
    algorithm
        The collectives' algorithm: the library's, one expanded into sends and receives, or
        shared_window, by which replicas add up gradients in memory that they share. Unless given it
        is shared_window where they can, else library.
    ranks_per_node
        Ranks on each node, in order, for algorithm hierarchical; where they run unless given.
    overlap
        All-reduce each gradient bucket while the backward pass goes on.
    bucket_kib
        The least size of a gradient bucket.
    stages
        The first layers of all pipeline stages but the first, as layer2.0.conv1,fc; balanced by
        flops unless given. python -m sim.stages --plain prints those that a machine balances.
    sync_batchnorm
        Let replicas normalise by the statistics of the whole batch, not each of its own share.
    average_every
        Steps between two averages (averaging, master); epoch for a whole one.
    independent_starts
        Let every replica of averaging start from random weights of its own.
    servers
        How many ranks, the first, serve parameters (server, async_server).
    slow
        Slow a rank down, as 1=2.5 (rank 1 takes 2.5 times as long to compute); may be repeated.
    pace
        Pad every compute op to the time that this file gives it, asleep (python -m sim.pace).
    noise
        Noise on those times, by rank and step, as lognormal:0.1 or exponential:0.1.
    arrivals
        Write here in which order the servers of async_server took their messages.
    replay
        Take messages in the order in this file, which makes the same bits again.
    batch
        The global batch (strong scaling); 32 unless given.
    batch_per_rank
        The batch of each rank instead (weak scaling).
    epochs
        Passes over the training data.
    learning_rate
        The learning rate, constant.
    momentum
        The momentum of SGD.
    dtype
        float32 or float64.
    device
        cpu, gpu (CuPy; a GPU a rank with NCCL, or shared by several), or emulated: the GPU's kernels
        and streams on the CPU, to try programs where there is none.
    tf32
        Let a GPU round the factors of float32 products to TF32, for speed.
    seed
        The seed of weights, order of samples and drawn letters.
    transport
        mpi, threads, or tcp (where ranks meet without MPI: as torchrun says, or in the file
        STEPCAST_RENDEZVOUS); auto takes what the launcher offers. Between GPUs nccl: auto is NCCL
        where every rank has a GPU of its own; the others stage messages through the host.
    blas_threads
        Threads of each rank's matrix products.
    load
        Start from these weights (safetensors).
    save
        Write the weights here (safetensors) after every epoch.
    checkpoint
        Write checkpoints into this folder, and a last one at the end.
    checkpoint_every
        How often: steps (500), a time (30s, 5m), or epoch, the default.
    keep
        How many checkpoints to keep; 2 unless given.
    resume
        Go on from the newest good checkpoint; anew if there is none yet.
    trace
        Write a Chrome trace of the timed steps here.
    monitor
        Record CPU, memory and bytes sent of each rank over time, in the record and the trace.
    monitor_plot
        Draw them here (PNG, SVG or PDF); implies monitor.
    json
        Print one JSON record instead of text.
    """
    name = choose_transport(transport)
    world_size = started_ranks(name, ranks)
    if world_size < 1:
        raise UsageError(f"ranks must be at least 1, got {world_size}")
    if strategy is None:
        mixed = any(factor is not None for factor in (dp, pp, tp))
        strategy = (
            Strategy.HYBRID if mixed else Strategy.DATA if world_size > 1 else Strategy.SERIAL
        )
    if batch is not None and batch_per_rank is not None:
        raise UsageError("batch and batch-per-rank must not both be given; the first is the sum of the second")  # fmt: skip
    for option, value in (("epochs", epochs), ("microbatches", microbatches), ("bucket-kib", bucket_kib),
                          ("learning-rate", learning_rate), ("blas-threads", blas_threads),
                          ("num-train", 1 if num_train is None else num_train),
                          ("num-test", 1 if num_test is None else num_test)):  # fmt: skip
        positive(option, value)
    positive("ranks-per-node", 1 if ranks_per_node is None else ranks_per_node)
    positive("momentum", momentum, or_zero=True)
    if momentum >= 1:
        raise UsageError(f"momentum must be less than 1, got {momentum}")
    if seed < 0:
        raise UsageError(f"seed must be at least 0, got {seed}")
    if dtype not in DTYPES:
        raise UsageError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    for option, path in (("save", save), ("trace", trace), ("arrivals", arrivals), ("monitor-plot", monitor_plot)):  # fmt: skip
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(f"{option} must be a file in a folder that exists, got {path}")
    if monitor_plot is not None:
        check_plot(monitor_plot)
    if load is not None and not load.is_file():
        raise ModelFileError(f"load must be a safetensors file, got {load}, which is no file")
    checkpoints = None
    if checkpoint is not None:
        checkpoints = CheckpointOptions(checkpoint, checkpoint_every or "epoch", KEEP if keep is None else keep, resume)  # fmt: skip
        checkpoints.check(strategy)
    elif checkpoint_every is not None or keep is not None or resume:
        raise UsageError(
            "checkpoint must name a folder if checkpoint-every, keep or resume is given"
        )
    if tf32 and device is DeviceKind.CPU:
        raise UsageError("tf32 needs --device gpu or emulated, got cpu")
    if transport is TransportName.NCCL and device is DeviceKind.CPU:
        raise UsageError("transport nccl needs --device gpu or emulated, got cpu")
    if slow and device is not DeviceKind.CPU:
        raise UsageError(f"slow needs --device cpu, got {device}: only the host can be slowed down")
    if pace is not None and device is not DeviceKind.CPU:
        raise UsageError(f"pace needs --device cpu, got {device}: only the host can be padded")
    if noise is not None and pace is None:
        raise UsageError("noise needs --pace: it is on the times that are given")
    parsed_noise = None if noise is None else parse_noise(noise)
    pacing = None if pace is None else Pacing(read_pace(pace), parsed_noise)
    mesh = mesh_of(strategy, world_size, dp, pp, tp)
    global_batch = batch_per_rank * world_size if batch_per_rank is not None else batch or 32
    if batch is not None:
        global_batch = batch
    network = parse_net(net)
    workload = Workload(network, global_batch, 8 if dtype == "float64" else 4, momentum > 0)
    options = PlanOptions(microbatches, schedule, bucket_kib << 10, overlap, algorithm or Algorithm.LIBRARY, strategy,
                          parse_every(average_every), servers,
                          pause_every=checkpoints.pause_every(strategy) if checkpoints else 0,
                          stages=parse_stages(stages, network), sync_batchnorm=sync_batchnorm,
                          device=device)  # fmt: skip
    check_plan(workload, mesh, options)
    if ranks_per_node is not None and algorithm is Algorithm.HIERARCHICAL:
        check_nodes(mesh, ranks_per_node)
    if independent_starts and strategy is not Strategy.AVERAGING:
        raise UsageError(f"independent-starts needs strategy averaging, got {strategy}")
    if strategy is not Strategy.ASYNC_SERVER and (arrivals or replay):
        raise UsageError(f"arrivals and replay need strategy async_server, got {strategy}")
    if independent_starts and load is not None:
        raise UsageError("independent-starts and load must not both be given; load starts all ranks alike")  # fmt: skip
    if checkpoint is not None and replay is not None:
        raise UsageError("checkpoint and replay must not both be given; checkpoints cut the order of arrivals")  # fmt: skip
    if resume and arrivals is not None:
        raise UsageError("resume and arrivals must not both be given; the order would lack its beginning")  # fmt: skip
    replayed = () if replay is None else read_arrivals(replay, options.servers, mesh.world_size)
    plan = TrainingPlan(workload, mesh, options, dtype, learning_rate, momentum, seed,
                        independent_starts, parse_slow(slow, world_size), replayed, tf32, pacing)  # fmt: skip
    source = Source(data, data_dir, test_file, fold, num_train, num_test, seed)

    files = Files(
        load, save, trace, arrivals, monitor_plot, monitor or monitor_plot is not None, checkpoints
    )

    def body(wire: Transport) -> None:
        # A training that diverges overflows; _run says so once, where NumPy would warn at every op.
        with threadpool_limits(blas_threads), np.errstate(over="ignore", invalid="ignore"):
            on_nodes = placed(plan, ranks_per_node, wire, chooses=algorithm is None)
            note = placement_note(on_nodes, is_given=ranks_per_node is not None)
            _run(wire, on_nodes, source, strategy, epochs, files, note, transport, is_json=json)

    run_job(name, ranks, body)


def _run(
    wire: Transport, plan: TrainingPlan, source: Source, strategy: Strategy, epochs: int,
    files: Files, note: str, transport: TransportName, *, is_json: bool,
) -> None:  # fmt: skip
    workload = plan.workload
    backend = backend_of(plan, wire, transport.device_wire)
    checkpoints = open_checkpoints(files.checkpoint, plan, wire)
    dataset = together(wire, lambda: source.load_for(workload))
    checkpoints.check_data(dataset)
    session = together(wire, lambda: Session(plan, dataset, wire, checkpoints.start, backend))
    if plan.replayed:
        workers = session.program.trainers
        together(wire, lambda: check_arrivals(plan.replayed, workers, session.tickets, epochs))
    checkpoints.restore(session)
    if (load := files.load) is not None and checkpoints.found is None:
        weights = together(wire, lambda: load_weights(load, workload.network, plan.dtype))
        scatter_weights(session.buffers, weights)
    is_over = is_oversubscribed(wire)
    speaks = wire.rank == 0
    out = Console(stderr=True, highlight=False, soft_wrap=True) if is_json else console()
    if speaks:
        out.print(headline(plan, dataset, strategy, wire.size))
        if line := device_line(plan, session.backend.description()):
            out.print(line)
        if backend.note:
            out.print(f"note: {backend.note}")
        for idle in idle_options(plan.workload, plan.mesh, plan.options):
            out.print(f"note: {idle} changes nothing with strategy {strategy} on this mesh")
        if note:
            out.print(note)
        for rank, _ in plan.slowness:
            if plan.mesh.coordinates(rank)[0] not in session.program.trainers:
                out.print(f"note: rank {rank} does not train, so only its own work is slowed down")
        if wire.library == THREADS and wire.size > 1:
            out.print("note: threads share the interpreter's lock; for speed start processes with mpiexec")  # fmt: skip
        if is_over:
            out.print(f"oversubscribed: {wire.size} ranks share {num_cores()} cores; times are not those of {wire.size} cores")  # fmt: skip
        for line in (*checkpoints.notices, *map(_line, checkpoints.epochs)):
            out.print(line)
    monitor = Monitor(wire, is_on=files.is_monitored)
    wire.gather_objects(None)
    origin_s = perf_counter()
    num_samples = len(dataset.train_labels)
    with monitor, backend.watched():
        for number in range(checkpoints.first_epoch, epochs + 1):
            with _progress(shown=speaks and not is_json) as bar:
                task = bar.add_task(f"epoch {number}/{epochs}", total=num_samples)
                epoch = session.run_epoch(
                    number, lambda seen: bar.update(task, completed=seen),  # noqa: B023  # called inside
                    checkpoints.between(session, number), resumes=checkpoints.resumes(number),
                )  # fmt: skip
            if not math.isfinite(epoch.loss):  # the same number on every rank, so all end here
                raise AgreedError(
                    f"the loss of epoch {number} is {epoch.loss}; use a smaller learning-rate"
                )
            checkpoints.end_epoch(session, epoch, is_last=number == epochs)
            if speaks:
                out.print(_line(epoch))
                if epoch.loss > 1.5 * (guessed := math.log(dataset.num_classes)):
                    out.print(
                        f"note: the loss is far above {guessed:.2f}, that of guessing; try a smaller learning-rate"
                    )
            if files.save is not None:
                save_model(session, files.save, dataset, epoch, wire)
    if checkpoints.first_epoch > epochs:
        if speaks:
            out.print(
                f"finished: {len(checkpoints.epochs)} epochs are done, and epochs is {epochs}; raise it to go on"
            )
        if files.save is not None:
            save_model(session, files.save, dataset, checkpoints.epochs[-1], wire)
    usages = monitor.gather(origin_s)
    record = training_record(
        session, dataset, strategy, checkpoints.epochs, is_oversubscribed=is_over, usages=usages,
    ) | checkpoints.record()  # fmt: skip
    spans = session.spans + checkpoints.spans
    write_files(files, session, spans, usages, f"{workload.net} on {dataset.name}", origin_s)
    if speaks and is_json:
        print(json_format.dumps(record, allow_nan=False))
    elif speaks:
        out.print(summary(record))


def _line(epoch: Epoch) -> str:
    return (
        f"epoch {epoch.epoch:3d}  loss {epoch.loss:.5f}  test accuracy "
        f"{epoch.test_accuracy:7.2%}  {epoch.time_s:.2f} s"
    )


def _progress(*, shown: bool) -> Progress:
    """Return a bar that shows on a terminal only, and leaves nothing behind."""
    err = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=err, transient=True, disable=not (shown and err.is_terminal))


if __name__ == "__main__":
    run_app(app)
