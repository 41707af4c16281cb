"""What every transport must do: plain functions that all ranks call together.

The tests run them on threads; ``mpiexec -n P python -m tests.exec.transport.conformance`` runs them
on MPI, and ``device_conformance`` beside this on devices. Sums are of small integers, so they are
exact in any order, unless a case says otherwise.

Arrays are where the wire takes them from: ``place`` puts numbers there, ``put`` changes them, and
``look`` returns them.
"""

from collections.abc import Callable

import numpy as np

from exec.device.array import DeviceArray
from exec.program.ops import CollectiveKind
from exec.program.traffic import collective_nbytes
from exec.runtime.job import TransportName, run_job
from exec.transport.device_transport import DeviceTransport
from exec.transport.protocol import Buffer, Transport

Wire = Transport | DeviceTransport
Array = Buffer | DeviceArray
Case = Callable[[Wire], None]
LARGE = 1 << 17  # float64: 1 MiB, beyond any eager limit


def place(wire: Wire, numbers: Buffer) -> Array:
    """Return ``numbers`` where ``wire`` takes them from: here, or on its device."""
    return wire.device.upload(numbers) if hasattr(wire, "device") else numbers


def put(wire: Wire, array: Array, numbers: object) -> None:
    """Set ``array`` to ``numbers``, once all that is on the wire's stream is done."""
    if hasattr(wire, "device"):
        pinned = wire.device.pinned(array.size, array.dtype)
        pinned[...] = numbers
        wire.stream.bind_copy(pinned, array)()
        wire.stream.synchronize()
    else:
        array[...] = numbers


def look(wire: Wire, array: Array) -> Buffer:
    """Return the numbers of ``array``, once all that is on the wire's stream is done.

    Sends may still be under way, and wait for what the other rank does only later.
    """
    if not hasattr(wire, "device"):
        return array
    pinned = wire.device.pinned(array.size, array.dtype)
    wire.stream.bind_copy(array, pinned)()
    wire.stream.synchronize()
    return pinned.copy()


def get_ready(wire: Wire) -> None:
    """Let every rank talk to every other; only transports of devices must know that before."""
    if hasattr(wire, "device"):
        ranks = range(wire.size)
        wire.prepare([(source, dest) for source in ranks for dest in ranks if source != dest])


def meet(wire: Wire) -> None:
    """Return when all have come."""
    wire.run_collective(CollectiveKind.BARRIER, place(wire, np.empty(0)), [], 0)


def own(wire: Wire, size: int) -> Buffer:
    """Return what this rank brings to a sum: whole numbers that tell ranks and places apart."""
    return np.arange(size, dtype=np.float64) * (wire.rank + 1) + wire.rank


def total(wire: Wire, size: int) -> Buffer:
    """Return the sum of what all ranks bring."""
    p = wire.size
    return np.arange(size, dtype=np.float64) * (p * (p + 1) // 2) + p * (p - 1) // 2


def uneven(wire: Wire) -> list[int]:
    """Return shares that differ, the first of which is empty if there are several."""
    return [3 * rank if wire.size > 1 else 3 for rank in range(wire.size)]


def neighbours(wire: Wire) -> tuple[int, int]:
    """Return the rank before and the rank after this one."""
    return (wire.rank - 1) % wire.size, (wire.rank + 1) % wire.size


def do(
    wire: Wire, kind: CollectiveKind, numbers: Buffer, counts: list[int], root: int = 0
) -> tuple[Buffer, Buffer]:
    """Return the results of the blocking and of the non-blocking form on copies of ``numbers``."""
    blocking, pending = place(wire, numbers.copy()), place(wire, numbers.copy())
    wire.run_collective(kind, blocking, counts, root)
    wire.start_collective(kind, pending, counts, root).Wait()
    return look(wire, blocking), look(wire, pending)


def messages_of_one_tag_keep_their_order(wire: Wire) -> None:
    if wire.size == 1:
        return
    before, after = neighbours(wire)
    out = [place(wire, np.full(1 + i % 3, 100.0 * wire.rank + i)) for i in range(20)]
    sent = [wire.send(array, after, 5) for array in out]
    for i in range(20):
        into = place(wire, np.empty(1 + i % 3))
        wire.receive(into, before, 5).Wait()
        np.testing.assert_array_equal(look(wire, into), 100.0 * before + i)
    for request in sent:
        request.Wait()


def tags_are_told_apart(wire: Wire) -> None:
    if wire.size == 1:
        return
    before, after = neighbours(wire)
    out = [place(wire, np.array([10.0 * tag + wire.rank])) for tag in (1, 2, 3)]
    sent = [wire.send(array, after, tag) for tag, array in zip((1, 2, 3), out, strict=True)]
    for tag in (3, 1, 2):
        into = place(wire, np.empty(1))
        wire.receive(into, before, tag).Wait()
        assert look(wire, into)[0] == 10.0 * tag + before
    for request in sent:
        request.Wait()


def receive_may_come_before_its_send(wire: Wire) -> None:
    if wire.size == 1:
        return
    before, after = neighbours(wire)
    into, out = place(wire, np.empty(4)), place(wire, np.full(4, 1.0 + wire.rank))
    receiving = wire.receive(into, before, 6)
    meet(wire)
    sending = wire.send(out, after, 6)
    receiving.Wait()
    sending.Wait()
    np.testing.assert_array_equal(look(wire, into), 1.0 + before)


def sources_are_told_apart(wire: Wire) -> None:
    out = [place(wire, np.array([10.0 * wire.rank + i])) for i in range(2)]
    sent = [wire.send(array, 0, 7) for array in out] if wire.rank else []
    meet(wire)
    if wire.rank == 0:
        # The last rank's messages first, while the others' wait.
        for source in reversed(range(1, wire.size)):
            for i in range(2):
                into = place(wire, np.empty(1))
                wire.receive(into, source, 7).Wait()
                assert look(wire, into)[0] == 10.0 * source + i
    for request in sent:
        request.Wait()


def any_source_takes_each_message_once(wire: Wire) -> None:
    if wire.rank:
        wire.send(place(wire, np.array([7.0 * wire.rank])), 0, 8).Wait()
        return
    found = []
    for _ in range(wire.size - 1):
        into = place(wire, np.empty(1))
        arrival = wire.receive_any(into, 8)
        arrival.Wait()
        assert look(wire, into)[0] == 7.0 * arrival.source
        found.append(look(wire, into)[0])
    assert sorted(found) == [7.0 * rank for rank in range(1, wire.size)]


def message_may_be_empty(wire: Wire) -> None:
    if wire.size == 1:
        return
    before, after = neighbours(wire)
    sending = wire.send(place(wire, np.empty(0)), after, 9)
    wire.receive(place(wire, np.empty(0)), before, 9).Wait()
    sending.Wait()


def message_may_be_large(wire: Wire) -> None:
    if wire.size == 1:
        return
    before, after = neighbours(wire)
    out, into = place(wire, own(wire, LARGE)), place(wire, np.empty(LARGE))
    sending = wire.send(out, after, 10)
    wire.receive(into, before, 10).Wait()
    sending.Wait()
    np.testing.assert_array_equal(look(wire, into), np.arange(LARGE) * (before + 1.0) + before)


def message_may_be_part_of_an_array(wire: Wire) -> None:
    if wire.size == 1:
        return
    before, after = neighbours(wire)
    out, into = place(wire, np.arange(10.0) + wire.rank), place(wire, np.full(10, -1.0))
    sending = wire.send(out[2:5], after, 11)
    wire.receive(into[6:9], before, 11).Wait()
    sending.Wait()
    np.testing.assert_array_equal(
        look(wire, into), [-1] * 6 + [2.0 + before, 3.0 + before, 4.0 + before, -1]
    )


def sent_array_is_free_once_its_request_is_done(wire: Wire) -> None:
    if wire.size == 1:
        return
    before, after = neighbours(wire)
    array, into = place(wire, np.empty(8)), place(wire, np.empty(8))
    for i in range(10):
        put(wire, array, i)
        sending = wire.send(array, after, 12)
        wire.receive(into, before, 12).Wait()
        sending.Wait()
        np.testing.assert_array_equal(look(wire, into), i)


def test_comes_true_without_wait(wire: Wire) -> None:
    before, after = neighbours(wire)
    into, array = place(wire, np.empty(LARGE)), place(wire, own(wire, 5))
    requests = [wire.start_collective(CollectiveKind.ALLREDUCE, array, [], 0)]
    if wire.size > 1:
        requests += [
            wire.send(place(wire, np.zeros(LARGE)), after, 13),
            wire.receive(into, before, 13),
        ]
    done = [False]
    while not all(done):
        done = [request.Test() for request in requests]  # each is helped along every time
    np.testing.assert_array_equal(look(wire, array), total(wire, 5))
    # Waiting for what is done changes nothing.
    requests[0].Wait()
    np.testing.assert_array_equal(look(wire, array), total(wire, 5))


def dtypes_pass_through(wire: Wire) -> None:
    for dtype in (np.float32, np.float64, np.int64):
        array = own(wire, 5).astype(dtype)
        for found in do(wire, CollectiveKind.ALLREDUCE, array, []):
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, total(wire, 5))


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


def split_keeps_the_order_of_ranks(wire: Wire) -> None:
    part = wire.split(wire.rank % 2)
    members = list(range(wire.rank % 2, wire.size, 2))
    assert (part.size, members[part.rank]) == (len(members), wire.rank)
    assert part.gather_objects(wire.rank) == members
    array = place(wire, np.array([float(wire.rank)]))
    part.run_collective(CollectiveKind.ALLREDUCE, array, [], 0)
    assert look(wire, array)[0] == sum(members)


def split_of_a_split_is_a_group_of_its_own(wire: Wire) -> None:
    half = wire.split(int(wire.rank >= wire.size // 2))
    alone = half.split(half.rank)
    assert (alone.rank, alone.size) == (0, 1)
    assert alone.gather_objects(wire.rank) == [wire.rank]
    assert sum(map(int, half.gather_objects(1))) == half.size  # type: ignore[call-overload]  # ints


def groups_do_not_hear_one_another(wire: Wire) -> None:
    if wire.size == 1:
        return
    before, after = neighbours(wire)
    same = wire.split(0)
    assert (same.rank, same.size) == (wire.rank, wire.size)
    get_ready(same)
    into = place(wire, np.empty(2))
    out = [place(wire, np.array([value])) for value in (1.0, 2.0)]
    sent = [same.send(out[0], after, 15), wire.send(out[1], after, 15)]
    wire.receive(into[1:], before, 15).Wait()
    same.receive(into[:1], before, 15).Wait()
    for request in sent:
        request.Wait()
    np.testing.assert_array_equal(look(wire, into), [1.0, 2.0])


def any_source_comes_true_without_wait(wire: Wire) -> None:
    if wire.rank:
        wire.send(place(wire, np.array([3.0 * wire.rank])), 0, 10).Wait()
        return
    for _ in range(wire.size - 1):
        into = place(wire, np.empty(1))
        arrival = wire.receive_any(into, 10)
        while not arrival.Test():
            pass
        assert look(wire, into)[0] == 3.0 * arrival.source


def shared_arrays_begin_as_zeros_and_are_seen_by_all(wire: Wire) -> None:
    windows = wire.share(wire.rank + 2, "float32")
    assert [window.size for window in windows] == [rank + 2 for rank in range(wire.size)]
    assert all(w.dtype == "float32" and not look(wire, w).any() for w in windows)
    wire.gather_objects(None)
    put(wire, windows[(wire.rank + 1) % wire.size][:2], [wire.rank, -wire.rank])
    wire.gather_objects(None)
    writer = (wire.rank - 1) % wire.size
    np.testing.assert_array_equal(look(wire, windows[wire.rank][:2]), [writer, -writer])
    assert not look(wire, windows[wire.rank][2:]).any()


def shared_arrays_may_be_of_one_rank_only(wire: Wire) -> None:
    windows = wire.share(3 * (wire.rank == 0), "float64")
    assert [window.size for window in windows] == [3] + [0] * (wire.size - 1)


def lock_is_held_by_one_rank_at_a_time(wire: Wire) -> None:
    counter = wire.share(1 * (wire.rank == 0), "int64")[0]
    lock, other = wire.lock(), wire.lock()
    other.acquire()  # locks are told apart: all ranks would stand still here otherwise
    other.release()
    for _ in range(200):
        lock.acquire()
        seen = int(look(wire, counter)[0])
        wire.library.upper()  # some time for another rank to come between
        put(wire, counter, seen + 1)
        lock.release()
    wire.gather_objects(None)
    assert look(wire, counter)[0] == 200 * wire.size


def gather_objects_gives_every_rank_every_value(wire: Wire) -> None:
    found = wire.gather_objects({"rank": wire.rank, "name": "x" * wire.rank})
    assert found == [{"rank": rank, "name": "x" * rank} for rank in range(wire.size)]
    assert wire.gather_objects(None) == [None] * wire.size


def messages_are_counted_where_they_are_sent(wire: Wire) -> None:
    # Each rank sends to those after it only, so all counts differ.
    sent_before = wire.nbytes_sent
    out = place(wire, own(wire, 5))[1:4]
    sent = [wire.send(out, dest, 16) for dest in range(wire.rank + 1, wire.size)]
    for source in range(wire.rank):
        wire.receive(place(wire, np.empty(3)), source, 16).Wait()
    for request in sent:
        request.Wait()
    assert wire.nbytes_sent - sent_before == 3 * 8 * (wire.size - 1 - wire.rank)


def collectives_are_counted_once_in_either_form(wire: Wire) -> None:
    for kind in CollectiveKind:
        root = wire.size - 1
        sent_before = wire.nbytes_sent
        do(wire, kind, own(wire, wire.size).astype(np.float32), [1] * wire.size, root)
        each = collective_nbytes(kind, 4 * wire.size, wire.size, wire.rank == root)
        assert wire.nbytes_sent - sent_before == 2 * each, kind


def groups_count_together(wire: Wire) -> None:
    sent_before = wire.nbytes_sent
    half = wire.split(int(wire.rank >= wire.size // 2))
    pair = half.split(half.rank // 2)
    assert half.nbytes_sent == pair.nbytes_sent == sent_before  # setting up is not counted
    for group in (pair, half, wire):
        group.run_collective(CollectiveKind.REDUCE, place(wire, np.ones(2)), [], 0)
    total_nbytes = sum(16 * (group.rank > 0) for group in (pair, half, wire))
    assert wire.nbytes_sent == half.nbytes_sent == pair.nbytes_sent == sent_before + total_nbytes


def gathering_objects_is_not_counted(wire: Wire) -> None:
    sent_before = wire.nbytes_sent
    wire.gather_objects("x" * 1000)
    assert wire.nbytes_sent == sent_before


CASES: tuple[Case, ...] = (
    messages_of_one_tag_keep_their_order,
    tags_are_told_apart,
    sources_are_told_apart,
    receive_may_come_before_its_send,
    any_source_takes_each_message_once,
    any_source_comes_true_without_wait,
    message_may_be_empty,
    message_may_be_large,
    message_may_be_part_of_an_array,
    sent_array_is_free_once_its_request_is_done,
    test_comes_true_without_wait,
    dtypes_pass_through,
    allreduce_adds,
    allreduce_leaves_the_same_bits_on_all_ranks,
    allgather_collects_the_shares,
    reduce_scatter_adds_and_keeps_the_share,
    broadcast_copies_the_root_s,
    reduce_adds_at_the_root,
    barrier_ends_and_touches_nothing,
    starting_a_collective_does_not_block,
    collectives_under_way_may_end_in_any_order,
    split_keeps_the_order_of_ranks,
    split_of_a_split_is_a_group_of_its_own,
    groups_do_not_hear_one_another,
    shared_arrays_begin_as_zeros_and_are_seen_by_all,
    shared_arrays_may_be_of_one_rank_only,
    lock_is_held_by_one_rank_at_a_time,
    gather_objects_gives_every_rank_every_value,
    messages_are_counted_where_they_are_sent,
    collectives_are_counted_once_in_either_form,
    groups_count_together,
    gathering_objects_is_not_counted,
)


SHARING: tuple[Case, ...] = (
    shared_arrays_begin_as_zeros_and_are_seen_by_all,
    shared_arrays_may_be_of_one_rank_only,
    lock_is_held_by_one_rank_at_a_time,
)
TCP_CASES = tuple(case for case in CASES if case not in SHARING)
"""Processes that TCP connects may be on different nodes: no memory in common, so no locks."""

NCCL_CANNOT: dict[Case, str] = {
    tags_are_told_apart: "messages match in order",
    any_source_takes_each_message_once: "it must know who sends",
    any_source_comes_true_without_wait: "it must know who sends",
    receive_may_come_before_its_send: "a receive holds its lane, and so what its send comes after",
    starting_a_collective_does_not_block: "a collective holds its lane, and what comes after it",
    **dict.fromkeys(SHARING, "every rank has a GPU of its own"),
}
NCCL_CASES = tuple(case for case in CASES if case not in NCCL_CANNOT)


def conform(wire: Wire, cases: tuple[Case, ...] = CASES) -> None:
    """Do ``cases``; rank 0 says which are done, so that the last one named is before the fault."""
    get_ready(wire)
    for case in cases:
        case(wire)
        wire.gather_objects(None)
        if wire.rank == 0:
            print("conforms:", case.__name__, flush=True)


if __name__ == "__main__":
    run_job(TransportName.MPI, None, conform)
