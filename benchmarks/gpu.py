"""The trainer on a GPU against PyTorch on the same GPU: ``python benchmarks/gpu.py``.

Compared, in ms a step, float32, with TF32 off and on for both alike, samples on the GPU:

- Stepcast: steps of a session one after another, as an epoch does them. Beside it ``epoch``: the
  whole loop of ``exec.train``, with its clocks.
- PyTorch, from the same weights on the same samples: eager (plain, foreach and fused SGD, networks
  of convolutions also channels_last); the step as a CUDA graph; ``torch.compile`` by default, the same
  as a CUDA graph, and with mode reduce-overhead; of large products also max-autotune.

All take turns in every round, after turns that do not count; ratios are taken inside a round and
shown as the median (least..most). First all train on a few batches from the same weights: how far
they moved must agree. A form of PyTorch's that fails is told with its reason, and so is a case for
which there was no time. Then two small tables: the rate of single products by every route over the
card's own rate, and a step replayed as a graph or enqueued op by op, by every route.

Without PyTorch on a GPU its columns are left out; ``--device emulated --quick`` runs everything else
on any computer, to see that it works: its times mean nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from gpu_cases import Case, Group, Rounding, cases_of
from gpu_products import product_records
from gpu_replay import replay_records
from gpu_session import open_routed
from gpu_steps import step_record
from gpu_table import gpu_tables
from records import check_writable, provenance, write_records
from rich.console import Console

from exec.cli import console, make_app, run_app
from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.workload import positive

Flag = Annotated[bool, Parameter(negative=())]
Record = dict[str, Any]

app = make_app("python benchmarks/gpu.py", "Compare the trainer with PyTorch on a GPU.")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What was asked for; ``end_s`` is when no new case is begun any more."""

    kind: DeviceKind
    cases: list[Case]
    has_products: bool
    has_replays: bool
    tf32: tuple[bool, ...]
    rounds: int
    is_quick: bool
    has_torch: bool
    max_autotune: bool
    end_s: float


@app.default
def gpu(
    *, device: DeviceKind = DeviceKind.GPU, groups: tuple[Group, ...] = (), rounds: int = 9,
    tf32: Rounding = Rounding.BOTH, max_autotune: Flag = False, limit_s: float = 3600.0,
    quick: Flag = False, out: Path | None = None,
) -> None:  # fmt: skip
    """Compare the trainer with PyTorch on a GPU.

    Parameters
    ----------
    device
        gpu, or emulated: without PyTorch, to see that it works.
    groups
        Only these: mlp, large, conv, resnet (steps), products, replay (the small tables).
    rounds
        How often each contender takes its turn.
    tf32
        Products of factors as they are (off), rounded to TF32 (on), or both.
    max_autotune
        Let torch.compile tune its products for all networks, which takes minutes; else for large.
    limit_s
        Begin no case later than so many seconds after the start.
    quick
        Two rounds of tiny networks.
    out
        Write the records here, as JSON lines, after every case.
    """
    began_s = perf_counter()
    positive("rounds", rounds)
    positive("limit-s", limit_s)
    check_writable(out)
    if not device.has_streams:
        raise UsageError(f"device must be gpu or emulated, got {device}")
    opened = open_routed(device, is_tf32=False)
    gpu_head = {
        "name": opened.name,
        "memory_nbytes": opened.memory()[1],
        "software": opened.software,
    }
    opened.close()
    wanted = _Wanted(
        device, cases_of(groups, is_quick=quick), not groups or Group.PRODUCTS in groups,
        not groups or Group.REPLAY in groups, tf32.choices, 2 if quick else rounds, quick,
        device is DeviceKind.GPU and _torch_sees_a_gpu(), max_autotune, began_s + limit_s,
    )  # fmt: skip
    head = provenance("torch", "triton", "cupy-cuda13x", "nvmath-python", "nvidia-cudnn-frontend") | {
        "device": gpu_head, "has_torch": wanted.has_torch,
    }  # fmt: skip
    records: list[Record] = []
    # Training on noise may overflow; exec.train says so once.
    with np.errstate(over="ignore", invalid="ignore"):
        for record in _records(wanted):
            records.append(record)
            if out is not None:
                write_records(out, [head, *records])
    screen = console(170)
    for text in gpu_tables(head, records):
        screen.print(text, crop=False)


def _records(wanted: _Wanted) -> Iterator[Record]:
    for is_tf32 in wanted.tf32:
        if wanted.has_products and not _is_late(wanted):
            _say(f"products, TF32 {'on' if is_tf32 else 'off'}")
            yield from product_records(
                wanted.kind, is_tf32=is_tf32, rounds=wanted.rounds, is_quick=wanted.is_quick,
                has_torch=wanted.has_torch,
            )  # fmt: skip
    if wanted.has_replays:
        for record in replay_records(wanted.kind, rounds=wanted.rounds, is_quick=wanted.is_quick):
            _say(f"replayed: {record['net']}, batch {record['batch']}")
            yield record
    for case in wanted.cases:
        for is_tf32 in wanted.tf32:
            named = {"net": case.net, "batch": case.batch, "is_tf32": is_tf32}
            if _is_late(wanted):
                yield {"kind": "skipped", **named, "reason": "no time was left"}
                continue
            _say(f"{case.net}, batch {case.batch}, TF32 {'on' if is_tf32 else 'off'}")
            yield step_record(
                case, wanted.kind, is_tf32=is_tf32, rounds=wanted.rounds, has_torch=wanted.has_torch,
                is_tuned=wanted.max_autotune or case.group is Group.LARGE,
            )  # fmt: skip


def _is_late(wanted: _Wanted) -> bool:
    return perf_counter() > wanted.end_s


def _torch_sees_a_gpu() -> bool:
    if find_spec("torch") is None:
        return False
    import torch  # noqa: PLC0415  # an extra

    return bool(torch.cuda.is_available())


def _say(what: str) -> None:
    Console(stderr=True, highlight=False).print(what)


if __name__ == "__main__":
    run_app(app)
