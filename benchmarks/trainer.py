"""The trainer against PyTorch and against its own matrix products: ``python benchmarks/trainer.py``.

One process here, and then two ranks of this computer (``two_ranks.py``). Compared, in samples a second,
one process and one thread, float32:

- Stepcast: ``Session.do_step`` on shuffled indices, one step in 64 with clocks around every op, as
  ``exec.train`` runs it. The gather of the batch and the sum of the losses are part of the step.
- PyTorch eager: the same network, weights, data and indices; the batch gathered by
  ``index_select``, ``zero_grad(set_to_none=True)``, ``backward``, ``step``. Plain and fused SGD
  are both run, networks of convolutions also in the ``channels_last`` memory format, and the
  fastest is the yardstick. It need not read its loss, which costs it less than what Stepcast does.
- The matrix products of the step alone, of dense layers: ``numpy.dot`` on the session's own arrays,
  so in the same layouts. No trainer on this BLAS is faster.

All take turns in every round, after a step that is not timed; ratios are taken inside a round,
and shown as the median (least..most). First, both must have computed the same: after a few steps
from the same weights the loss agrees to 1e-4, and how far the weights moved to 1e-3; or, where
float32 itself does not hold that much, to three times what PyTorch's memory formats differ by.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from products import is_dense, products, products_turn
from pytorch import Indices, Step, has_rows, torch_images, torch_network, torch_step, torch_turn
from records import check_writable, provenance, write_records
from rich.table import Table
from rounds import interleave, ratio, spread
from stepcast import stepcast_turn
from threadpoolctl import threadpool_info, threadpool_limits
from two_ranks import TWO_RANK_NETS, two_rank_records, two_ranks_table

from exec.cli import console, make_app, run_app
from exec.data.dataset import Dataset
from exec.data.noise import noise_dataset
from exec.errors import UsageError
from exec.network.parse import parse_net
from exec.nn.weights import Weights
from exec.program.mesh import Mesh
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.threads import run_threads
from exec.workload import Workload, positive

CASES = (
    ("128-50-26", 32),
    ("128-50-26", 256),
    ("784-512-512-26", 32),
    ("784-512-512-26", 256),
    ("784-2048-2048-26", 256),
    ("784-2048-2048-2048-26", 256),
    ("cnn", 64),
    ("cnn", 128),
    ("svhn-cnn", 64),
    ("resnet18-small", 32),
)
NUM_SAMPLES = 20_480  # what exec.train draws unless told, in whole batches
MOST_NUMBERS = 1 << 24  # of all images together
LEARNING_RATE, LARGE_RATE = 0.1, 0.001  # noise is not to be learnt by heart, nor to saturate units
LOSS_TOLERANCE, MOVE_TOLERANCE, OWN_TOLERANCE = 1e-4, 1e-3, 3.0  # relative; of PyTorch's own
BLOCK_FLOPS, MIN_STEPS, MAX_STEPS = 2e10, 4, 1000  # a contender's turn: some tenths of a second
LARGE_FLOPS, LARGE_STEPS = 5e10, 2  # a step of such a network takes a second
NUM_CHECKED, LARGE_CHECKED = 5, 2

Turn = Callable[[list[Indices]], float]
"""Train on the first batch untimed, then on the others; return their seconds."""

app = make_app("python benchmarks/trainer.py", "Compare the trainer with PyTorch.")


@app.default
def trainer(
    *, rounds: int = 15, conv_rounds: int = 5, two_rank_rounds: int = 11, nets: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:  # fmt: skip
    """Compare the trainer with PyTorch and with its own matrix products, on one rank and on two.

    Parameters
    ----------
    rounds
        How often each contender takes its turn.
    conv_rounds
        How often with a network of convolutions.
    two_rank_rounds
        How often on two ranks.
    nets
        Only these of the networks.
    out
        Write the records here, as JSON lines.
    """
    for option, value in (("rounds", rounds), ("conv-rounds", conv_rounds), ("two-rank-rounds", two_rank_rounds)):  # fmt: skip
        positive(option, value)
    check_writable(out)
    known = dict.fromkeys([net for net, _ in CASES] + list(TWO_RANK_NETS))
    for net in nets:
        if net not in known:
            raise UsageError(f"nets must be of {', '.join(known)}, got {net}")
    torch.set_num_threads(1)
    # A training that overflows would warn at every op; exec.train says so once instead.
    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        threads = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
        threads["torch"] = torch.get_num_threads()
        head = provenance("torch", "threadpoolctl", "mpi4py", "mpich") | {"threads": threads}
        chosen = [case for case in CASES if not nets or case[0] in nets]
        records = [_case(*case, rounds, conv_rounds) for case in chosen]
    together = two_rank_records(two_rank_rounds, nets)
    if out is not None:
        write_records(out, [head, *records, *together])
    _print(head, records)
    if together:
        console(150).print(two_ranks_table(together), crop=False)


def _case(net: str, batch: int, rounds: int, conv_rounds: int) -> dict[str, object]:
    """Measure one network and batch size."""
    workload = Workload(parse_net(net), batch)
    network = workload.network
    flops = batch * sum(workload.node_flops(node) for node in range(len(network.nodes)))
    is_large = flops > LARGE_FLOPS
    rate = LARGE_RATE if is_large else LEARNING_RATE
    num_samples = min(NUM_SAMPLES, MOST_NUMBERS // network.num_features) // batch * batch
    dataset = noise_dataset(network.image, network.num_classes, num_samples, 1, seed=0)
    plan = TrainingPlan(workload, Mesh(), learning_rate=rate)
    session = run_threads(1, partial(Session, plan, dataset))[0]
    nets, steps = _torch(session.weights(), dataset, rate)
    batches = (indices for epoch in count() for indices in session.batches(epoch))
    checked = list(islice(batches, (LARGE_CHECKED if is_large else NUM_CHECKED) + 1))
    agreement = _agreement(session, nets, steps, dataset, checked)
    if not agreement["is_close"]:
        raise RuntimeError(f"{net}, batch {batch}: Stepcast and PyTorch differ: {agreement}")
    num_steps = LARGE_STEPS if is_large else round(max(MIN_STEPS, min(MAX_STEPS, BLOCK_FLOPS / flops)))  # fmt: skip
    contenders: dict[str, Turn] = {"stepcast": partial(stepcast_turn, session)}
    contenders |= {name: partial(torch_turn, step) for name, step in steps.items()}
    if is_dense(network):
        contenders["products"] = partial(products_turn, products(session.buffers, batch))
    num_rounds = rounds if is_dense(network) else conv_rounds
    inputs = (list(islice(batches, num_steps + 1)) for _ in range(num_rounds))
    times_s = interleave(contenders, inputs)
    yardstick = min(steps, key=lambda name: spread(times_s[name]).median)
    own_s = times_s["stepcast"]
    return {
        "kind": "trainer",
        "net": net,
        "batch": batch,
        "rounds": num_rounds,
        "steps_per_round": num_steps,
        "samples_per_s": {
            name: num_steps * batch / spread(times).median for name, times in times_s.items()
        },
        "yardstick": yardstick,
        "speed_over_pytorch": asdict(ratio(times_s[yardstick], own_s)),
        "time_over_products": asdict(ratio(own_s, times_s["products"])) if "products" in times_s else None,
        "agreement": agreement,
        "times_s": times_s,
    }  # fmt: skip


def _torch(
    weights: Weights, dataset: Dataset, rate: float
) -> tuple[dict[str, torch.nn.Module], dict[str, Step]]:
    """Return PyTorch's networks and steps: in both memory formats where images are no rows."""
    nets, steps = {}, {}
    formats = (False,) if has_rows(weights.network) else (False, True)
    for is_channels_last in formats:
        images = torch_images(weights.network, dataset.train_images, is_channels_last=is_channels_last)  # fmt: skip
        for is_fused in (False, True):
            name = "pytorch" + " channels_last" * is_channels_last + " fused" * is_fused
            nets[name] = torch_network(weights, is_channels_last=is_channels_last)
            steps[name] = torch_step(nets[name], images, dataset, rate, is_fused=is_fused)
    return nets, steps


def _agreement(
    session: Session, nets: dict[str, torch.nn.Module], steps: dict[str, Step], dataset: Dataset,
    batches: list[Indices],
) -> dict[str, object]:  # fmt: skip
    """Return how far losses and moves differ, relatively, once trained on all but the last batch.

    Against each of PyTorch's networks, the worst; and the worst of these against the first.
    """

    def flat(net: torch.nn.Module) -> torch.Tensor:
        return torch.cat([each.detach().reshape(-1) for each in net.parameters()])

    def loss(net: torch.nn.Module) -> float:
        images = torch_images(session.plan.workload.network, dataset.train_images[last])
        labels = torch.from_numpy(dataset.train_labels[last])
        net.eval()
        with torch.no_grad():
            found = torch.nn.functional.cross_entropy(net(images), labels).item()
        net.train()
        return found

    first = next(iter(nets.values()))
    start, last = flat(first), batches.pop()
    for indices in batches:
        session.do_step(indices)
        for step in steps.values():
            step(torch.from_numpy(indices))

    def differences(ours: torch.nn.Module) -> tuple[float, float]:
        losses = [abs(loss(ours) / loss(net) - 1) for net in nets.values()]
        moves = [float((flat(ours) - flat(net)).norm() / (flat(net) - start).norm()) for net in nets.values()]  # fmt: skip
        return max(losses), max(moves)

    loss_difference, move_difference = differences(torch_network(session.weights()))
    own_loss, own_move = differences(first)
    is_close = (
        loss_difference <= max(LOSS_TOLERANCE, OWN_TOLERANCE * own_loss)
        and move_difference <= max(MOVE_TOLERANCE, OWN_TOLERANCE * own_move)
    )  # fmt: skip
    return {
        "steps": len(batches), "is_close": is_close,
        "loss_rel_difference": loss_difference, "move_rel_difference": move_difference,
        "pytorch_loss_rel_difference": own_loss, "pytorch_move_rel_difference": own_move,
    }  # fmt: skip


def _print(head: dict[str, object], records: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("net", "batch", "Stepcast", "PyTorch", "its form", "products", "speed / PyTorch", "time / products"):  # fmt: skip
        is_text = heading in ("net", "its form")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for record in records:
        rates, yardstick = record["samples_per_s"], record["yardstick"]
        table.add_row(
            record["net"], str(record["batch"]), f"{rates['stepcast']:,.0f}", f"{rates[yardstick]:,.0f}",
            yardstick.removeprefix("pytorch").strip() or "plain",
            f"{rates['products']:,.0f}" if "products" in rates else "",
            *("{median:.2f} ({low:.2f}..{high:.2f})".format(**record[key]) if record[key] else ""
              for key in ("speed_over_pytorch", "time_over_products")),
        )  # fmt: skip
    screen = console(130)
    screen.print(f"samples/s, one thread, float32; ratios: median (least..most) of the rounds\n"
              f"{head['cpu']}, {head['blas']}, torch {head['torch']}, load average {head['load_average']}\n")  # fmt: skip
    screen.print(table, crop=False)


if __name__ == "__main__":
    run_app(app)
