"""What messages between two ranks must do, on every transport."""

import numpy as np

from exec.program.ops import CollectiveKind
from tests.exec.transport.placed import (
    LARGE,
    Wire,
    do,
    look,
    meet,
    neighbours,
    own,
    place,
    put,
    total,
)


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
