"""Networks of convolutions on real digits: ``python benchmarks/mnist.py --data-dir DIR``.

As ``python -m exec.train`` trains them: ``cnn`` on all of MNIST for three epochs, on one rank and
on two, and ``resnet18-small`` for a stated number of steps on two ranks, as replicas and as two
stages. Told of each: the loss and test accuracy of every epoch, and its time. ``cnn`` must reach
98.5 %, or the script fails.
"""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records import check_writable, provenance, write_records
from rich.table import Table

from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.launch import find_mpiexec
from exec.workload import positive

GOAL = 0.985
RESNET, RESNET_BATCH = "resnet18-small:1x28x28:10", 32

app = make_app("python benchmarks/mnist.py", "Train networks of convolutions on MNIST.")


@dataclass(frozen=True, slots=True)
class Case:
    """One training: ``flags`` are the trainer's."""

    ranks: int
    flags: tuple[str, ...]
    goal: float | None = None


@app.default
def mnist(
    *, data_dir: Path | None = None, epochs: int = 3, steps: int = 100, nets: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:  # fmt: skip
    """Train networks of convolutions on MNIST.

    Parameters
    ----------
    data_dir
        Where MNIST lies; it is downloaded unless given.
    epochs
        For how long cnn trains; three are needed for 98.5 %.
    steps
        For how long resnet18-small trains, a second or two each.
    nets
        Only cnn, or only resnet18-small.
    out
        Write the records here, as JSON lines.
    """
    positive("epochs", epochs)
    positive("steps", steps)
    check_writable(out)
    cnn = ("--net", "cnn", "--batch", "64", "--lr", "0.05", "--momentum", "0.9", "--epochs", str(epochs))  # fmt: skip
    resnet = (
        "--net", RESNET, "--batch", str(RESNET_BATCH), "--lr", "0.01", "--momentum", "0.9", "--epochs", "1",
        "--num-train", str(steps * RESNET_BATCH), "--num-test", "1000",
    )  # fmt: skip
    cases = {
        "cnn": [Case(1, cnn, GOAL), Case(2, cnn, GOAL)],
        "resnet18-small": [
            Case(2, (*resnet, "--strategy", "data")),
            Case(2, (*resnet, "--strategy", "pipeline", "--microbatches", "2")),
        ],
    }
    for net in nets:
        if net not in cases:
            raise UsageError(f"nets must be of {', '.join(cases)}, got {net}")
    head = provenance("mpi4py", "mpich")
    head["command"] = f"python benchmarks/mnist.py --epochs {epochs} --steps {steps}"
    records = [_run(case, data_dir) for net in nets or cases for case in cases[net]]
    if out is not None:
        write_records(out, [head, *records])
    _print(records)
    if not all(record["reaches_goal"] is not False for record in records):
        sys.exit(1)


def _run(case: Case, data_dir: Path | None) -> dict[str, Any]:
    train = ["-m", "exec.train", "--data", "mnist", *case.flags]
    launcher = [find_mpiexec() or "mpiexec", "-n", str(case.ranks)] if case.ranks > 1 else []
    source = ["--data-dir", str(data_dir)] if data_dir else []
    command = [*launcher, sys.executable, *train, *source, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"the trainer must end with status 0, got {done.stderr.strip()}")
    record: dict[str, Any] = json.loads(done.stdout)
    del record["provenance"]  # said once, in the first record
    accuracy = record["epochs"][-1]["test_accuracy"]
    return {
        "kind": "mnist",
        "command": shlex.join([*(["mpiexec", "-n", str(case.ranks)] if launcher else []), "python", *train]),
        "test_accuracy": accuracy,
        "goal": case.goal,
        "reaches_goal": None if case.goal is None else accuracy >= case.goal,
    } | record  # fmt: skip


def _print(records: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("net", "batch", "ranks", "strategy", "samples", "epoch", "loss", "test accuracy", "seconds"):  # fmt: skip
        is_text = heading in ("net", "strategy")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for each in records:
        for epoch in each["epochs"]:
            table.add_row(
                each["net"], str(each["batch"]), str(each["ranks"]), each["strategy"],
                f"{each['train_samples']:,}", str(epoch["epoch"]), f"{epoch['loss']:.4f}",
                f"{epoch['test_accuracy']:.2%}", f"{epoch['time_s']:.1f}",
            )  # fmt: skip
    console(110).print(table, crop=False)


if __name__ == "__main__":
    run_app(app)
