"""The peak memory of training, Stepcast's and PyTorch's: ``python benchmarks/memory.py``.

Each network is trained for three steps in a fresh process, one thread, float32, by Stepcast and by
PyTorch eager, plain SGD, in both memory formats; the one that needs less counts. Told is how far
the resident memory rises above what there was before, with the data set there. Before, each has
trained a tiny network of all kinds of layers for a step, so that the code and the work space of
libraries, loaded at first use, are told apart. Beside Stepcast's: the bytes that its plan counts.
The median (least..most) of several processes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from peak import peak_growth_nbytes, resident_nbytes
from records import check_writable, provenance, write_records
from rich.table import Table
from rounds import ratio, spread
from threadpoolctl import threadpool_limits

from exec.cli import console, make_app, run_app
from exec.data.dataset import Dataset
from exec.data.noise import noise_dataset
from exec.errors import UsageError
from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Linear,
    MaxPool,
    Module,
    ReLU,
    Sigmoid,
)
from exec.network.network import build
from exec.network.parse import parse_net
from exec.program.mesh import Mesh
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.threads import run_threads
from exec.workload import Workload, positive

CASES = (
    ("128-50-26", 32),
    ("784-512-512-26", 256),
    ("cnn", 64),
    ("cnn", 128),
    ("svhn-cnn", 64),
    ("resnet18-small", 32),
)
TINY: tuple[tuple[str, Module, tuple[str, ...]], ...] = (
    ("conv1", Conv2d(8, (3, 3), padding=(1, 1)), ()),
    ("bn1", BatchNorm2d(), ()),
    ("relu1", ReLU(), ()),
    ("conv2", Conv2d(8, (3, 3), padding=(1, 1)), ()),
    ("add", Add(), ("conv2", "relu1")),
    ("maxpool", MaxPool((2, 2), (2, 2)), ()),
    ("avgpool", AvgPool(), ()),
    ("fc1", Linear(8), ()),
    ("sigmoid", Sigmoid(), ()),
    ("fc2", Linear(2), ()),
)
CONTENDERS = ("stepcast", "pytorch", "pytorch channels_last")
NUM_STEPS, LEARNING_RATE = 3, 0.001

Train = Callable[[int], int]
"""Train for so many steps; return the bytes that the plan counts, or those of the parameters."""

app = make_app("python benchmarks/memory.py", "Compare the peak memory with PyTorch's.")


@app.default
def memory(*, rounds: int = 3, out: Path | None = None) -> None:
    """Compare the peak memory with PyTorch's.

    Parameters
    ----------
    rounds
        How many processes each contender gets.
    out
        Write the records here, as JSON lines.
    """
    positive("rounds", rounds)
    check_writable(out)
    head = provenance("torch") | {"steps": NUM_STEPS}
    records = [_case(net, batch, rounds) for net, batch in CASES]
    if out is not None:
        write_records(out, [head, *records])
    _print(head, records)


@app.command
def one(net: str, batch: int, contender: str) -> None:
    """Measure one contender in this process, and print JSON.

    Parameters
    ----------
    net
        The network.
    batch
        The batch.
    contender
        stepcast, pytorch, or pytorch channels_last.
    """
    prepare = _stepcast
    if contender != "stepcast":
        prepare = partial(_pytorch, is_channels_last=contender.endswith("channels_last"))
    workload = Workload(parse_net(net), batch)
    tiny = Workload(build("tiny", (3, 8, 8), TINY), 2)
    with threadpool_limits(1):
        trains = [prepare(each, _noise(each)) for each in (workload, tiny)]
        start = resident_nbytes()
        trains[1](1)
        loaded = resident_nbytes() - start
        told: list[int] = []
        growth = peak_growth_nbytes(lambda: told.append(trains[0](NUM_STEPS)))
    print(json.dumps({"growth_bytes": growth, "libraries_bytes": loaded, "told_bytes": told[0]}))


def _noise(workload: Workload) -> Dataset:
    network = workload.network
    num_samples = (NUM_STEPS + 1) * workload.global_batch
    return noise_dataset(network.image, network.num_classes, num_samples, 1, seed=0)


def _stepcast(workload: Workload, dataset: Dataset) -> Train:
    def train(steps: int) -> int:
        plan = TrainingPlan(workload, Mesh(), learning_rate=LEARNING_RATE)
        session = run_threads(1, partial(Session, plan, dataset))[0]
        for _, indices in zip(range(steps), session.batches(0), strict=False):
            session.do_step(indices)
        return session.buffers.nbytes

    return train


def _pytorch(workload: Workload, dataset: Dataset, *, is_channels_last: bool) -> Train:
    # Only here, so that Stepcast's process is its own.
    import torch  # noqa: PLC0415  # see above
    from pytorch import torch_images, torch_network, torch_step  # noqa: PLC0415  # see above

    from exec.nn.weights import empty_weights  # noqa: PLC0415  # see above

    torch.set_num_threads(1)
    images = torch_images(workload.network, dataset.train_images, is_channels_last=is_channels_last)

    def train(steps: int) -> int:
        weights = empty_weights(workload.network, "float32")  # zeros take no memory until written
        net = torch_network(weights, is_channels_last=is_channels_last).apply(_reset)
        del weights
        step, batch = torch_step(net, images, dataset, LEARNING_RATE), workload.global_batch
        for number in range(steps):
            step(torch.arange(number * batch, (number + 1) * batch))
        return sum(each.nbytes for each in net.parameters())

    return train


def _reset(module: Any) -> None:
    """Draw the weights as PyTorch does."""
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()


def _case(net: str, batch: int, rounds: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, int]]] = {contender: [] for contender in CONTENDERS}
    for _ in range(rounds):
        for contender, own in found.items():
            own.append(_run(net, batch, contender))
    growths = {name: [each["growth_bytes"] for each in own] for name, own in found.items()}
    yardstick = min(CONTENDERS[1:], key=lambda name: spread(growths[name]).median)
    return {
        "kind": "memory",
        "net": net,
        "batch": batch,
        "rounds": rounds,
        "growth_bytes": growths,
        "libraries_bytes": {
            name: [each["libraries_bytes"] for each in own] for name, own in found.items()
        },
        "planned_bytes": found["stepcast"][0]["told_bytes"],
        "yardstick": yardstick,
        "memory_over_pytorch": asdict(ratio(growths["stepcast"], growths[yardstick])),
    }


def _run(net: str, batch: int, contender: str) -> dict[str, int]:
    command = [sys.executable, __file__, "one", net, str(batch), contender]
    limited = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=limited)
    if done.returncode:
        raise UsageError(f"{net} must train, got from {contender}: {done.stderr.strip()}")
    record: dict[str, int] = json.loads(done.stdout)
    return record


def _print(head: dict[str, object], records: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("net", "batch", "planned MiB", "Stepcast MiB", "PyTorch MiB", "its form", "memory / PyTorch", "libraries MiB"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("net", "its form") else "right", no_wrap=True)  # fmt: skip
    for each in records:
        mib = {name: spread(values).median / 2**20 for name, values in each["growth_bytes"].items()}
        table.add_row(
            each["net"], str(each["batch"]), f"{each['planned_bytes'] / 2**20:.2f}", f"{mib['stepcast']:.2f}",
            f"{mib[each['yardstick']]:.2f}", each["yardstick"].removeprefix("pytorch").strip() or "plain",
            "{median:.2f} ({low:.2f}..{high:.2f})".format(**each["memory_over_pytorch"]),
            " / ".join(f"{spread(each['libraries_bytes'][name]).median / 2**20:.0f}" for name in ("stepcast", each["yardstick"])),
        )  # fmt: skip
    screen = console(110)
    screen.print(f"peak of resident memory in {head['steps']} steps over that before, one thread, float32\n"
                 f"{head['cpu']}, {head['blas']}, torch {head['torch']}\n")  # fmt: skip
    screen.print(table, crop=False)


if __name__ == "__main__":
    run_app(app)
