"""Which way to replay a step is best: as one graph or enqueued op by op, by every route of products."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

from gpu_cases import QUICK_REPLAYED, REPLAYED
from gpu_products import routes_of
from gpu_session import Ours
from gpu_steps import NUM_WARM, RATE, endless_batches, noise_for, steps_a_turn
from rounds import interleave, ratio, spread

from exec.device.kind import DeviceKind
from exec.network.parse import parse_net
from exec.workload import Workload


def replay_records(kind: DeviceKind, *, rounds: int, is_quick: bool) -> Iterator[dict[str, Any]]:
    """Yield for each network the time of a step by every route, as a graph and enqueued."""
    for net, batch in QUICK_REPLAYED if is_quick else REPLAYED:
        workload = Workload(parse_net(net), batch)
        dataset = noise_for(workload, kind)
        ways = {
            f"{route or kind}, {'op by op' if is_enqueued else 'graph'}": Ours.open(
                kind, workload, dataset, RATE, is_tf32=False, route=route, is_enqueued=is_enqueued
            )
            for route in routes_of(kind) for is_enqueued in (False, True)
        }  # fmt: skip
        batches = endless_batches(next(iter(ways.values())).session)
        for ours in ways.values():
            ours.turn(list(islice(batches, NUM_WARM)))
        first = next(iter(ways.values()))
        count = steps_a_turn(first.turn(list(islice(batches, NUM_WARM))) / NUM_WARM, kind)
        inputs = (list(islice(batches, count)) for _ in range(rounds))
        times_s = interleave({name: ours.turn for name, ours in ways.items()}, inputs)
        steps_s = {name: [each / count for each in own] for name, own in times_s.items()}
        fastest = min(steps_s, key=lambda name: spread(steps_s[name]).median)
        yield {
            "kind": "replay", "net": net, "batch": batch, "steps_per_round": count,
            "step_s": {name: asdict(spread(own)) for name, own in steps_s.items()},
            "fastest": fastest,
            "time_over_fastest": {name: asdict(ratio(own, steps_s[fastest])) for name, own in steps_s.items()},
            "times_s": steps_s,
        }  # fmt: skip
        for ours in ways.values():
            ours.close()
