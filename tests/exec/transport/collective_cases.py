"""What collectives must do, on every transport."""

import numpy as np

from exec.program.ops import CollectiveKind
from tests.exec.transport.placed import LARGE, Wire, do, look, own, place, total, uneven


def allreduce_adds(wire: Wire) -> None:
    for size in (0, 1, 7, LARGE):
        for found in do(wire, CollectiveKind.ALLREDUCE, own(wire, size), []):
            np.testing.assert_array_equal(found, total(wire, size))


def allreduce_leaves_the_same_bits_on_all_ranks(wire: Wire) -> None:
    generator = np.random.Generator(np.random.PCG64(wire.rank))
    for size in (1, 100, 5000):
        array = generator.standard_normal(size) * 10.0 ** generator.integers(-8, 8, size)
        for found in do(wire, CollectiveKind.ALLREDUCE, array, []):
            assert len(set(map(str, wire.gather_objects(found.tobytes().hex())))) == 1


def allgather_collects_the_shares(wire: Wire) -> None:
    for counts in ([2] * wire.size, uneven(wire)):
        stops = np.cumsum(counts)
        owners = np.repeat(np.arange(wire.size, dtype=np.float64), counts)
        array = np.full(stops[-1], -1.0)
        mine = slice(stops[wire.rank] - counts[wire.rank], stops[wire.rank])
        array[mine] = wire.rank
        for found in do(wire, CollectiveKind.ALLGATHER, array, counts):
            np.testing.assert_array_equal(found, owners)


def reduce_scatter_adds_and_keeps_the_share(wire: Wire) -> None:
    for counts in ([2] * wire.size, uneven(wire)):
        stop = sum(counts[: wire.rank + 1])
        mine = slice(stop - counts[wire.rank], stop)
        size = sum(counts)
        for found in do(wire, CollectiveKind.REDUCE_SCATTER, own(wire, size), counts):
            np.testing.assert_array_equal(found[mine], total(wire, size)[mine])


def broadcast_copies_the_root_s(wire: Wire) -> None:
    for root in range(wire.size):
        for size in (0, 3, LARGE):
            for found in do(wire, CollectiveKind.BROADCAST, own(wire, size), [], root):
                np.testing.assert_array_equal(found, np.arange(size) * (root + 1.0) + root)


def reduce_adds_at_the_root(wire: Wire) -> None:
    for root in range(wire.size):
        for found in do(wire, CollectiveKind.REDUCE, own(wire, 6), [], root):
            if wire.rank == root:
                np.testing.assert_array_equal(found, total(wire, 6))


def barrier_ends_and_touches_nothing(wire: Wire) -> None:
    for found in do(wire, CollectiveKind.BARRIER, own(wire, 3), []):
        np.testing.assert_array_equal(found, own(wire, 3))


def starting_a_collective_does_not_block(wire: Wire) -> None:
    # Rank 0 starts, and only then sends what the others need before they start.
    array = place(wire, own(wire, LARGE))
    into = place(wire, np.empty(1))
    if wire.rank:
        wire.receive(into, 0, 14).Wait()
    request = wire.start_collective(CollectiveKind.ALLREDUCE, array, [], 0)
    if not wire.rank:
        for sending in [
            wire.send(place(wire, np.ones(1)), rank, 14) for rank in range(1, wire.size)
        ]:
            sending.Wait()
    request.Wait()
    np.testing.assert_array_equal(look(wire, array), total(wire, LARGE))


def collectives_under_way_may_end_in_any_order(wire: Wire) -> None:
    arrays = [place(wire, own(wire, size)) for size in (4, 5, 6)]
    requests = [wire.start_collective(CollectiveKind.ALLREDUCE, array, [], 0) for array in arrays]
    for request in requests[:: 1 if wire.rank % 2 else -1]:
        request.Wait()
    for array in arrays:
        np.testing.assert_array_equal(look(wire, array), total(wire, array.size))
