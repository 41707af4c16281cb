"""One case of ``gpu.py``: Stepcast's step and every form of PyTorch's, in interleaved rounds."""

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
from gpu_cases import Case
from gpu_session import Ours
from numpy.typing import NDArray
from rounds import interleave, ratio, spread

from exec.data.dataset import Dataset
from exec.data.noise import noise_dataset
from exec.device.kind import DeviceKind
from exec.errors import DeviceError, UsageError
from exec.nn.backend import Indices
from exec.runtime.session import Session
from exec.workload import Workload

Turn = Callable[[list[Indices]], float]
Record = dict[str, Any]
Numbers = NDArray[np.float32]

RATE = 0.01  # noise is not to be learnt by heart, nor to saturate units
NUM_SAMPLES = 20_480
MOST_NUMBERS = 1 << 27  # of all images together: half a GiB
TURN_S, MIN_STEPS, MAX_STEPS = 0.03, 4, 2000
NUM_WARM, NUM_CHECKED = 4, 4
MOVE_TOLERANCE, TF32_TOLERANCE, OWN_TOLERANCE = 1e-3, 0.05, 3.0
"""How far moves may differ, relatively: in float32, with TF32, and in terms of PyTorch's own spread."""
OURS, EPOCH = "stepcast", "epoch"


def noise_for(workload: Workload, kind: DeviceKind) -> Dataset:
    """Return random samples for ``workload``: whole batches, two of them at least."""
    network, batch = workload.network, workload.global_batch
    most = min(NUM_SAMPLES, MOST_NUMBERS // network.num_features)
    if kind is DeviceKind.EMULATED:
        most = MIN_STEPS * batch
    return noise_dataset(
        network.image, network.num_classes, max(2, most // batch) * batch, 1, seed=0
    )


def endless_batches(session: Session) -> Iterator[Indices]:
    """Yield batches for ever, epoch by epoch."""
    return (indices for epoch in count() for indices in session.batches(epoch))


def steps_a_turn(step_s: float, kind: DeviceKind) -> int:
    """Return how many steps of ``step_s`` make a turn; emulated ones take long and tell nothing."""
    if kind is DeviceKind.EMULATED:
        return MIN_STEPS
    return round(max(MIN_STEPS, min(MAX_STEPS, TURN_S / step_s)))


def step_record(
    case: Case, kind: DeviceKind, *, is_tf32: bool, rounds: int, has_torch: bool, is_tuned: bool
) -> Record:
    """Return the times of ``case``, or why it could not be measured."""
    named: Record = {"net": case.net, "batch": case.batch, "is_tf32": is_tf32}
    dataset = noise_for(case.workload, kind)
    try:
        ours = Ours.open(kind, case.workload, dataset, RATE, is_tf32=is_tf32)
    except (DeviceError, UsageError) as error:  # no room for it; that there is a GPU is known
        return {"kind": "skipped", **named, "reason": str(error)}
    theirs: dict[str, Turn] = {}
    about_torch: Record = {"failed": {}, "agreement": None}
    batches = endless_batches(ours.session)
    try:
        if has_torch:
            theirs, about_torch = _with_torch(ours, dataset, batches, is_tf32=is_tf32, is_tuned=is_tuned)  # fmt: skip
        return {
            "kind": "step", **named, "group": case.group, "flops": case.flops, **about_torch,
            **_timed(ours, theirs, batches, kind, rounds),
        }  # fmt: skip
    finally:
        theirs.clear()
        ours.close()
        del ours
        _free(has_torch=has_torch)


def _with_torch(
    ours: Ours, dataset: Dataset, batches: Iterator[Indices], *, is_tf32: bool, is_tuned: bool
) -> tuple[dict[str, Turn], Record]:
    """Return the turns of PyTorch's forms, and how far they agree after some batches of training."""
    from gpu_torch import Theirs, as_theirs  # noqa: PLC0415  # needs PyTorch

    weights = ours.session.weights()
    found = Theirs.build(weights, dataset, next(batches), RATE, is_tf32=is_tf32, is_tuned=is_tuned)
    checked, start = list(islice(batches, NUM_CHECKED)), as_theirs(weights)
    ours.turn(checked)
    for turn in found.turns().values():
        turn(checked)
    agreement = None
    if found.contenders:
        agreement = agreement_of(start, as_theirs(ours.session.weights()), found.parameters(), is_tf32=is_tf32)  # fmt: skip
    return found.turns(), {"failed": found.failed, "agreement": agreement}


def _timed(
    ours: Ours, theirs: dict[str, Turn], batches: Iterator[Indices], kind: DeviceKind, rounds: int
) -> Record:
    ours.turn(list(islice(batches, NUM_WARM)))
    num_steps = steps_a_turn(ours.turn(list(islice(batches, NUM_WARM))) / NUM_WARM, kind)

    def a_step(turn: Turn, given: list[Indices]) -> float:
        return turn(given) / len(given)

    contenders: dict[str, Callable[[list[Indices]], float]] = {OURS: partial(a_step, ours.turn)}
    epochs = count(1)
    contenders[EPOCH] = lambda _: ours.epoch_step_s(next(epochs))
    contenders |= {name: partial(a_step, turn) for name, turn in theirs.items()}
    for run in contenders.values():
        run(list(islice(batches, NUM_WARM)))
    inputs = (list(islice(batches, num_steps)) for _ in range(rounds))
    times_s = interleave(contenders, inputs)

    def fastest(names: list[str]) -> str | None:
        return min(names, key=lambda name: spread(times_s[name]).median, default=None)

    best, eager = fastest(list(theirs)), fastest([name for name in theirs if name.startswith("eager")])  # fmt: skip
    return {
        "rounds": rounds, "steps_per_round": num_steps,
        "step_s": {name: asdict(spread(own)) for name, own in times_s.items()},
        "best": best, "eager": eager,
        "speed_over_best": asdict(ratio(times_s[best], times_s[OURS])) if best else None,
        "speed_over_eager": asdict(ratio(times_s[eager], times_s[OURS])) if eager else None,
        "times_s": times_s,
    }  # fmt: skip


def agreement_of(
    start: Numbers, ours: Numbers, theirs: Mapping[str, Numbers], *, is_tf32: bool
) -> Record:
    """Return how far our weights' move differs from that of PyTorch's forms, relatively, the worst."""
    first = next(iter(theirs.values()))
    moves = {name: float(np.linalg.norm(own - first) / np.linalg.norm(first - start)) for name, own in theirs.items()}  # fmt: skip
    own = max(moves.values())
    differs = max(float(np.linalg.norm(ours - each) / np.linalg.norm(each - start)) for each in theirs.values())  # fmt: skip
    tolerance = max(TF32_TOLERANCE if is_tf32 else MOVE_TOLERANCE, OWN_TOLERANCE * own)
    return {"move_rel_difference": differs, "pytorch_move_rel_difference": own, "tolerance": tolerance,
            "is_close": differs <= tolerance}  # fmt: skip


def _free(*, has_torch: bool) -> None:
    """Give memory of the GPU back, which both sides keep for later."""
    gc.collect()
    if has_torch:
        from gpu_torch import free  # noqa: PLC0415  # needs PyTorch

        free()
