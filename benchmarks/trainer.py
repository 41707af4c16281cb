"""The trainer against PyTorch and against its own matrix products: ``python benchmarks/trainer.py``.

Compared, in samples a second, one process and one thread, float32:

- Stepcast: ``Session.do_step`` on shuffled indices, one step in 16 with clocks around every op, as
  ``exec.train`` runs it. The gather of the batch and the sum of the losses are part of the step.
- PyTorch eager: the same network, weights, data and indices; the batch gathered by
  ``index_select``, ``zero_grad(set_to_none=True)``, ``backward``, ``step``. Plain and fused SGD
  are both run, and the faster is the yardstick. It need not read its loss, which costs it less
  than what Stepcast does.
- The matrix products of the step alone: ``numpy.dot`` on the session's own arrays, so in the same
  layouts. No trainer on this BLAS is faster.

All take turns in every round, after a step that is not timed; ratios are taken inside a round,
and shown as the median (least..most). First, both must have computed the same: after five steps
from the same weights the loss agrees to 1e-4, and how far the weights moved to 1e-3.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import count, islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from products import products, products_turn
from pytorch import Indices, Step, network, torch_step, torch_turn
from records import check_writable, provenance, write_records
from rich.table import Table
from rounds import interleave, ratio, spread
from threadpoolctl import threadpool_info, threadpool_limits
from torch.nn.utils import parameters_to_vector

from exec.cli import console, make_app, run_app
from exec.data.dataset import Dataset
from exec.data.noise import noise_dataset
from exec.network.parse import parse_net
from exec.program.mesh import Mesh
from exec.runtime.session import TIMED_EVERY, Session, TrainingPlan
from exec.transport.threads import run_threads
from exec.workload import Workload, positive

CASES = (
    ("128-50-26", 32),
    ("128-50-26", 256),
    ("784-512-512-26", 32),
    ("784-512-512-26", 256),
    ("784-2048-2048-26", 256),
)
NUM_SAMPLES = 20_480  # what exec.train draws unless told, in whole batches
LEARNING_RATE = 0.1  # noise is not to be learnt by heart, nor the units to saturate
NUM_CHECKED, LOSS_TOLERANCE, MOVE_TOLERANCE = 5, 1e-4, 1e-3  # steps; relative
BLOCK_FLOPS, MIN_STEPS, MAX_STEPS = 2e10, 4, 1000  # a contender's turn: some tenths of a second

Turn = Callable[[list[Indices]], float]
"""Train on the first batch untimed, then on the others; return their seconds."""

app = make_app("python benchmarks/trainer.py", "Compare the trainer with PyTorch.")


@app.default
def trainer(*, rounds: int = 15, json: Path | None = None) -> None:
    """Compare the trainer with PyTorch and with its own matrix products.

    Parameters
    ----------
    rounds
        How often each contender takes its turn.
    json
        Write the records here, as JSON lines.
    """
    positive("rounds", rounds)
    check_writable(json)
    torch.set_num_threads(1)
    # A training that overflows would warn at every op; exec.train says so once instead.
    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        threads = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
        threads["torch"] = torch.get_num_threads()
        head = provenance("torch", "threadpoolctl") | {"threads": threads}
        records = [_case(net, batch, rounds) for net, batch in CASES]
    if json is not None:
        write_records(json, [head, *records])
    _print(head, records)


def _case(net: str, batch: int, rounds: int) -> dict[str, object]:
    """Measure one network and batch size."""
    workload = Workload(parse_net(net), batch)
    widths = workload.widths
    dataset = noise_dataset(widths[0], widths[-1], NUM_SAMPLES, 1, seed=0)
    plan = TrainingPlan(workload, Mesh(), learning_rate=LEARNING_RATE)
    session = run_threads(1, partial(Session, plan, dataset))[0]
    nets = {fused: network(session.weights()) for fused in (False, True)}
    steps = {
        fused: torch_step(net, dataset, LEARNING_RATE, is_fused=fused)
        for fused, net in nets.items()
    }
    batches = (indices for epoch in count() for indices in session.batches(epoch))
    checked = list(islice(batches, NUM_CHECKED + 1))
    loss_difference, move_difference = _differences(session, nets, steps, dataset, checked)
    if not (loss_difference <= LOSS_TOLERANCE and move_difference <= MOVE_TOLERANCE):
        raise RuntimeError(f"{net}, batch {batch}: Stepcast and PyTorch differ, the loss by "
                           f"{loss_difference:.1e}, the weights' moves by {move_difference:.1e}")  # fmt: skip
    flops = batch * sum(workload.layer_flops(layer) for layer in range(workload.num_layers))
    num_steps = round(max(MIN_STEPS, min(MAX_STEPS, BLOCK_FLOPS / flops)))
    contenders: dict[str, Turn] = {
        "stepcast": partial(stepcast_turn, session),
        "pytorch": partial(torch_turn, steps[False]),
        "pytorch fused": partial(torch_turn, steps[True]),
        "products": partial(products_turn, products(session.buffers, batch)),
    }
    inputs = (list(islice(batches, num_steps + 1)) for _ in range(rounds))
    times_s = interleave(contenders, inputs)
    yardstick = min(("pytorch", "pytorch fused"), key=lambda name: spread(times_s[name]).median)
    return {
        "kind": "trainer",
        "net": net,
        "batch": batch,
        "rounds": rounds,
        "steps_per_round": num_steps,
        "samples_per_s": {
            name: num_steps * batch / spread(times).median for name, times in times_s.items()
        },
        "yardstick": yardstick,
        "speed_over_pytorch": asdict(ratio(times_s[yardstick], times_s["stepcast"])),
        "time_over_products": asdict(ratio(times_s["stepcast"], times_s["products"])),
        "loss_rel_difference": loss_difference,
        "move_rel_difference": move_difference,
        "times_s": times_s,
    }


def stepcast_turn(session: Session, batches: list[Indices]) -> float:
    """Take a turn with the executor."""
    session.do_step(batches[0])
    start_s = perf_counter()
    for i, indices in enumerate(batches[1:]):
        session.do_step(indices, is_timed=i % TIMED_EVERY == TIMED_EVERY - 1)
    took_s = perf_counter() - start_s
    session.spans.clear()
    return took_s


def _differences(
    session: Session, nets: dict[bool, torch.nn.Sequential], steps: dict[bool, Step],
    dataset: Dataset, batches: list[Indices],
) -> tuple[float, float]:  # fmt: skip
    """Return the relative differences of loss and of moves, once trained on all but the last batch."""

    def flat(net: torch.nn.Sequential) -> torch.Tensor:
        return parameters_to_vector(net.parameters()).detach()

    def loss(net: torch.nn.Sequential) -> float:
        images, labels = dataset.train_images[last], dataset.train_labels[last]
        with torch.no_grad():
            outputs = net(torch.from_numpy(images))
            return torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels)).item()

    start, last = flat(nets[False]), batches.pop()
    for indices in batches:
        session.do_step(indices)
        for step in steps.values():
            step(torch.from_numpy(indices))

    ours = network(session.weights())
    losses = [abs(loss(ours) / loss(net) - 1) for net in nets.values()]
    moves = [
        float((flat(ours) - flat(net)).norm() / (flat(net) - start).norm()) for net in nets.values()
    ]
    return max(losses), max(moves)


def _print(head: dict[str, object], records: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("net", "batch", "Stepcast", "PyTorch", "SGD", "products", "speed / PyTorch", "time / products"):  # fmt: skip
        is_text = heading in ("net", "SGD")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for record in records:
        rates, yardstick = record["samples_per_s"], record["yardstick"]
        table.add_row(
            record["net"], str(record["batch"]), f"{rates['stepcast']:,.0f}", f"{rates[yardstick]:,.0f}",
            "fused" if yardstick.endswith("fused") else "plain", f"{rates['products']:,.0f}",
            *("{median:.2f} ({low:.2f}..{high:.2f})".format(**record[key])
              for key in ("speed_over_pytorch", "time_over_products")),
        )  # fmt: skip
    out = console(110)
    out.print(f"samples/s, one thread, float32; ratios: median (least..most) of {records[0]['rounds']} rounds\n"
              f"{head['cpu']}, {head['blas']}, torch {head['torch']}, load average {head['load_average']}\n")  # fmt: skip
    out.print(table, crop=False)


if __name__ == "__main__":
    run_app(app)
