"""The probe of messages between GPUs, or through the host where NCCL cannot be: what a link of theirs is.

What is done in the order of streams (NCCL) is timed as it is trained with, replayed as a graph.
"""

import socket
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Literal

import numpy as np

from calibration.machine import Tier
from calibration.probe import PASSES, idle, pairs_of
from calibration.samples import MessageSample, OverlapSample, Sample
from exec.device.protocol import Call, zeros
from exec.program.ops import CollectiveKind
from exec.transport.device_transport import DeviceTransport

Progress = Callable[[str], None]
Kind = Literal["exchange", "allreduce"]

_ELEMENTS = (1, 16, 128, 512, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20, 1 << 22, 1 << 24)
_MOST_STAGED = 1 << 21
_GRAPH_OPS = 10
_PRODUCT_SIDE, _SMALL_PRODUCT_SIDE = 1024, 64
MOST_ELEMENTS, MOST_EMULATED_ELEMENTS = 1 << 24, 1 << 12


def num_messages(ranks: int) -> int:
    """Return how often a pass tells its progress, at most."""
    return 0 if ranks < 2 else len(_ELEMENTS) * (2 if ranks == 2 else 3)


def num_gpus_a_node(wire: DeviceTransport) -> int:
    """Return how many devices the ranks on the node with most of them have."""
    found = set(wire.gather_objects((socket.gethostname(), wire.device.address)))
    hosts = [host for host, _ in found]
    return max(map(hosts.count, hosts))


def probe_device_messages(
    wire: DeviceTransport, seconds_each: float, progress: Progress, most_elements: int = MOST_ELEMENTS
) -> list[Sample]:  # fmt: skip
    """Return exchanges and library all-reduces over each tier that the ranks of ``wire`` span.

    Messages have up to ``most_elements``. All ranks must call it together; the samples are rank 0's.
    """
    hosts = wire.gather_objects(socket.gethostname())
    most = most_elements if wire.is_ordered else min(most_elements, _MOST_STAGED)
    sizes = [elements for elements in _ELEMENTS if elements <= most]
    found: list[Sample] = []
    for tier, pair in pairs_of(hosts).items():
        group = wire.split(int(wire.rank in pair))
        if wire.rank in pair:
            group.prepare({(0, 1), (1, 0)})
            for _ in range(PASSES):
                for kind in ("exchange", "allreduce"):
                    found += _time_messages(
                        group, kind, tier, sizes, seconds_each / PASSES, progress
                    )
            found.append(_time_overlap(group, tier, most // 4, progress))
        idle(wire.host)
    if wire.size > 2:
        tier = Tier.NETWORK if len(set(hosts)) > 1 else Tier.NODE
        for _ in range(PASSES):
            found += _time_messages(wire, "allreduce", tier, sizes, seconds_each / PASSES, progress)
    return wire.gather_objects(found)[0]


def _time_messages(
    wire: DeviceTransport, kind: Kind, tier: Tier, sizes: Sequence[int], seconds: float, progress: Progress
) -> list[Sample]:  # fmt: skip
    found: list[Sample] = []
    for elements in sizes:
        progress(f"{kind} of {4 * elements} bytes between {wire.size} ranks")
        call = _exchange(wire, elements) if kind == "exchange" else _allreduce(wire, elements)
        time_s = statistics.median(_repeat_together(wire, call, seconds))
        found.append(MessageSample(kind=kind, tier=tier, ranks=wire.size, nbytes=4 * elements, time_s=time_s))  # fmt: skip
    return found


def _exchange(wire: DeviceTransport, elements: int) -> Call:
    """Return a call that sends to the next rank and receives from the one before."""
    out, into = (zeros(wire.device, elements, np.float32) for _ in range(2))
    after, before = (wire.rank + 1) % wire.size, (wire.rank - 1) % wire.size

    def exchange() -> None:
        sent = wire.send(out, after, 1)
        wire.receive(into, before, 1).hold(wire.stream)
        sent.hold(wire.stream)

    return exchange


def _allreduce(wire: DeviceTransport, elements: int) -> Call:
    array = zeros(wire.device, elements, np.float32)
    return lambda: wire.run_collective(CollectiveKind.ALLREDUCE, array, [], 0)


def _repeat_together(wire: DeviceTransport, call: Call, seconds: float) -> list[float]:
    """Return times of ``call`` in blocks whose number all ranks agree on beforehand."""
    each, run = 1, call
    call()
    wire.device.synchronize()
    if wire.is_ordered:

        def often() -> None:
            for _ in range(_GRAPH_OPS):
                call()

        graph = wire.stream.capture(often)
        each, run = _GRAPH_OPS, lambda: graph.launch(wire.stream)
    once_s = max(wire.gather_objects(_block_s(wire, run, 3)))
    block = max(1, int(1e-3 / once_s))
    return [
        _block_s(wire, run, block) / each
        for _ in range(max(5, min(200, int(seconds / (once_s * block)))))
    ]


def _block_s(wire: DeviceTransport, run: Call, block: int) -> float:
    """Return the mean time of ``block`` runs."""
    start_s = perf_counter()
    for _ in range(block):
        run()
    wire.device.synchronize()
    return (perf_counter() - start_s) / block


def _time_overlap(
    wire: DeviceTransport, tier: Tier, elements: int, progress: Progress
) -> OverlapSample:
    """Let products go on for twice as long as an all-reduce takes, and see by how much both take longer."""
    progress("overlap of an all-reduce with compute")
    device, compute = wire.device, wire.device.stream()
    side = _PRODUCT_SIDE if elements > MOST_EMULATED_ELEMENTS else _SMALL_PRODUCT_SIDE
    allreduce = _allreduce(wire, elements)
    factor, product = (device.upload(np.ones((side, side), np.float32)) for _ in range(2))
    multiply = compute.bind_product(factor, factor, product)

    def time_s(num_products: int, num_sums: int) -> float:
        wire.gather_objects(None)
        start_s = perf_counter()
        for _ in range(num_products):
            multiply()
        for _ in range(num_sums):
            allreduce()
        device.synchronize()
        return perf_counter() - start_s

    time_s(1, 1)
    alone_s = max(wire.gather_objects(statistics.median(time_s(0, 1) for _ in range(7))))
    one_s = max(wire.gather_objects(statistics.median(time_s(8, 0) for _ in range(7)))) / 8
    count = max(1, min(1000, int(2 * alone_s / one_s)))
    compute_s = statistics.median(time_s(count, 0) for _ in range(9))
    both_s = statistics.median(time_s(count, 1) for _ in range(9))
    return OverlapSample(tier=tier, nbytes=4 * elements, blocking_s=alone_s, left_s=max(0.0, both_s - compute_s))  # fmt: skip
