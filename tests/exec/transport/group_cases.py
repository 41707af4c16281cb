"""What groups, shared memory, locks, objects and the count of bytes must do, on every transport."""

import numpy as np

from exec.program.ops import CollectiveKind
from exec.program.traffic import collective_nbytes
from tests.exec.transport.placed import Wire, do, get_ready, look, neighbours, own, place, put


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
