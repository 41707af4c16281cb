"""Train the network: ``python -m exec.train``, alone, or under ``mpiexec -n P``."""

import json as json_format
import math
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from threadpoolctl import threadpool_limits

from exec.cli import console, make_app, run_app
from exec.data.dataset import Dataset
from exec.data.load import load_dataset
from exec.data.noise import noise_dataset
from exec.errors import ModelFileError, UsageError
from exec.launch import launched_ranks
from exec.nn.backend import DTYPES
from exec.plan.layout import check_mesh
from exec.plan.nodes import check_nodes, without_effect
from exec.plan.schedule import Schedule
from exec.plan.step import PlanOptions
from exec.plan.strategy import Strategy, mesh_of
from exec.program.ops import Algorithm
from exec.program.timeline import chrome_trace
from exec.runtime.job import AgreedError, TransportName, choose_transport, run_job, together
from exec.runtime.placement import placed
from exec.runtime.record import headline, summary, training_record
from exec.runtime.report import (
    gather_spans,
    is_oversubscribed,
    num_cores,
)  # fmt: skip
from exec.runtime.session import Epoch, Session, TrainingPlan
from exec.runtime.weights import load_weights, save_weights, scatter_weights
from exec.transport.protocol import Transport
from exec.workload import Workload, parse_net, positive

app = make_app("python -m exec.train", "Train a network from scratch, alone or under mpiexec.")

Flag = Annotated[bool, Parameter(negative=())]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the samples come from."""

    name: str
    data_dir: Path | None
    test_file: Path | None
    fold: int
    num_train: int
    num_test: int
    seed: int

    def load(self, workload: Workload) -> Dataset:
        widths = workload.widths
        if self.name == "noise":
            dataset = noise_dataset(widths[0], widths[-1], self.num_train, self.num_test, self.seed)
        else:
            dataset = load_dataset(
                self.name, data_dir=self.data_dir, test_file=self.test_file, fold=self.fold,
                seed=self.seed, num_train=self.num_train, num_test=self.num_test,
            )  # fmt: skip
        if (dataset.num_features, dataset.num_classes) != (widths[0], widths[-1]):
            suggestion = "-".join(
                map(str, (dataset.num_features, *widths[1:-1], dataset.num_classes))
            )
            raise UsageError(
                f"net must start with the {dataset.num_features} features and end with the "
                f"{dataset.num_classes} classes of {dataset.name}, got {workload.net}; "
                f"for example --net {suggestion}"
            )
        if len(dataset.train_labels) < workload.global_batch:
            raise UsageError(
                f"batch must be at most the {len(dataset.train_labels)} training samples of "
                f"{dataset.name}, got {workload.global_batch}"
            )
        return dataset


@app.default
def train(
    *,
    net: str = "128-100-26",
    data: str = "drawn",
    data_dir: Path | None = None,
    test_file: Path | None = None,
    fold: int = 0,
    num_train: int = 20_000,
    num_test: int = 4_000,
    strategy: Strategy | None = None,
    ranks: int | None = None,
    dp: int | None = None,
    pp: int | None = None,
    tp: int | None = None,
    microbatches: int = 1,
    schedule: Schedule = Schedule.ONE_F_ONE_B,
    algorithm: Algorithm = Algorithm.LIBRARY,
    ranks_per_node: int | None = None,
    overlap: Flag = False,
    bucket_kib: int = 4096,
    batch: int | None = None,
    batch_per_rank: int | None = None,
    epochs: int = 5,
    learning_rate: Annotated[float, Parameter(name=("--learning-rate", "--lr"))] = 0.5,
    momentum: float = 0.0,
    dtype: str = "float32",
    seed: int = 0,
    transport: TransportName = TransportName.AUTO,
    blas_threads: int = 1,
    load: Path | None = None,
    save: Path | None = None,
    trace: Path | None = None,
    json: Flag = False,
) -> None:
    """Train a network from scratch, alone or under mpiexec.

    Parameters
    ----------
    net
        Widths of the layers: inputs, hidden units, classes.
    data
        drawn (letters the project draws itself), letters, mnist, noise (random, any width), or
        the path of a label-first CSV file.
    data_dir
        Where the real data sets lie; without it they are downloaded into a cache.
    test_file
        The CSV file to test on.
    fold
        Which fold of letters tests.
    num_train
        How many letters to draw (drawn, noise).
    num_test
        How many of them test.
    strategy
        How to share the work; data if there are several ranks.
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
        The collectives' algorithm: the library's, or one expanded into sends and receives.
    ranks_per_node
        Ranks on each node, in order, for algorithm hierarchical; where they run unless given.
    overlap
        All-reduce each gradient bucket while the backward pass goes on.
    bucket_kib
        The least size of a gradient bucket.
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
    seed
        The seed of weights, order of samples and drawn letters.
    transport
        mpi or threads; auto is MPI under a launcher.
    blas_threads
        Threads of each rank's matrix products.
    load
        Start from these weights (safetensors).
    save
        Write the weights here (safetensors) after every epoch.
    trace
        Write a Chrome trace of the timed steps here.
    json
        Print one JSON record instead of text.
    """
    name = choose_transport(transport)
    threads = 1 if ranks is None else ranks
    world_size = launched_ranks(os.environ) if name is TransportName.MPI else threads
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
                          ("num-train", num_train), ("num-test", num_test)):  # fmt: skip
        positive(option, value)
    positive("ranks-per-node", 1 if ranks_per_node is None else ranks_per_node)
    positive("momentum", momentum, or_zero=True)
    if momentum >= 1:
        raise UsageError(f"momentum must be less than 1, got {momentum}")
    if seed < 0:
        raise UsageError(f"seed must be at least 0, got {seed}")
    if dtype not in DTYPES:
        raise UsageError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    for option, path in (("save", save), ("trace", trace)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(f"{option} must be a file in a folder that exists, got {path}")
    if load is not None and not load.is_file():
        raise ModelFileError(f"load must be a safetensors file, got {load}, which is no file")
    mesh = mesh_of(strategy, world_size, dp, pp, tp)
    global_batch = batch_per_rank * world_size if batch_per_rank is not None else batch or 32
    if batch is not None:
        global_batch = batch
    workload = Workload(parse_net(net), global_batch, 8 if dtype == "float64" else 4, momentum > 0)
    check_mesh(workload, mesh, microbatches)
    options = PlanOptions(microbatches, schedule, bucket_kib << 10, overlap, algorithm)
    if ranks_per_node is not None and algorithm is Algorithm.HIERARCHICAL:
        check_nodes(mesh, ranks_per_node)
    plan = TrainingPlan(workload, mesh, options, dtype, learning_rate, momentum, seed)
    source = _Source(data, data_dir, test_file, fold, num_train, num_test, seed)

    def body(wire: Transport) -> None:
        # A training that diverges overflows; _run says so once, where NumPy would warn at every op.
        with threadpool_limits(blas_threads), np.errstate(over="ignore", invalid="ignore"):
            on_nodes = placed(plan, ranks_per_node, wire)
            note = without_effect(mesh, algorithm, on_nodes.options.ranks_per_node,
                                  is_given=ranks_per_node is not None)  # fmt: skip
            _run(wire, on_nodes, source, strategy, epochs, load, save, trace, note, is_json=json)

    run_job(name, ranks, body)


def _run(
    wire: Transport, plan: TrainingPlan, source: _Source, strategy: Strategy, epochs: int,
    load: Path | None, save: Path | None, trace: Path | None, note: str, *, is_json: bool,
) -> None:  # fmt: skip
    workload = plan.workload
    dataset = together(wire, lambda: source.load(workload))
    session = together(wire, lambda: Session(plan, dataset, wire))
    if load is not None:
        weights = together(wire, lambda: load_weights(load, workload, plan.dtype))
        scatter_weights(session.buffers, weights)
    is_over = is_oversubscribed(wire)
    speaks = wire.rank == 0
    out = Console(stderr=True, highlight=False, soft_wrap=True) if is_json else console()
    if speaks:
        out.print(headline(plan, dataset, strategy, wire.size))
        if note:
            out.print(note)
        if is_over:
            out.print(f"oversubscribed: {wire.size} ranks share {num_cores()} cores; times are not those of {wire.size} cores")  # fmt: skip
    wire.gather_objects(None)
    origin_s = perf_counter()
    done: list[Epoch] = []
    num_steps = -(-len(dataset.train_labels) // workload.global_batch)
    for number in range(1, epochs + 1):
        with _progress(shown=speaks and not is_json) as bar:
            task = bar.add_task(f"epoch {number}/{epochs}", total=num_steps)
            epoch = session.run_epoch(number, lambda step: bar.update(task, completed=step))  # noqa: B023  # called inside
        if not math.isfinite(epoch.loss):  # the same number on every rank, so all end here
            raise AgreedError(
                f"the loss of epoch {number} is {epoch.loss}; use a smaller learning-rate"
            )
        done.append(epoch)
        if speaks:
            out.print(f"epoch {epoch.epoch:3d}  loss {epoch.loss:.5f}  test accuracy "
                      f"{epoch.test_accuracy:7.2%}  {epoch.time_s:.2f} s")  # fmt: skip
        if save is not None:
            _save(session, save, dataset, epoch, wire)
    record = training_record(session, dataset, strategy, done, is_oversubscribed=is_over)
    if trace is not None:
        spans = gather_spans(session.spans, origin_s, wire)
        together(wire, lambda: _write(trace, chrome_trace(spans)) if speaks else None)
    if speaks and is_json:
        print(json_format.dumps(record, allow_nan=False))
    elif speaks:
        out.print(summary(record))


def _progress(*, shown: bool) -> Progress:
    """Return a bar that shows on a terminal only, and leaves nothing behind."""
    err = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=err, transient=True, disable=not (shown and err.is_terminal))


def _save(session: Session, path: Path, dataset: Dataset, epoch: Epoch, wire: Transport) -> None:
    weights = session.weights()
    metadata = {
        "format": "stepcast-weights-1",
        "net": session.plan.workload.net,
        "data": dataset.name,
        "epoch": str(epoch.epoch),
        "test_accuracy": str(epoch.test_accuracy),
    }
    together(wire, lambda: save_weights(path, weights, metadata) if wire.rank == 0 else None)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from error


if __name__ == "__main__":
    run_app(app)
