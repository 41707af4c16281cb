"""What threads do beyond the protocol: one end for all ranks, and errors that say who and why."""

import numpy as np
import pytest

from exec.errors import TransportError
from exec.program.ops import CollectiveKind
from exec.transport.threads import ThreadTransport, run_threads


def test_results_come_in_the_order_of_ranks() -> None:
    assert run_threads(5, lambda wire: wire.rank**2) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("kind", CollectiveKind)
def test_rank_that_raises_ends_those_that_wait_in_a_collective(kind: CollectiveKind) -> None:
    def body(wire: ThreadTransport) -> None:
        if wire.rank == 1:
            raise ArithmeticError("rank 1 cannot count")
        wire.run_collective(kind, np.zeros(3), [1, 1, 1], 0)

    with pytest.raises(ArithmeticError, match="rank 1 cannot count") as caught:
        run_threads(3, body)
    assert caught.value.__notes__ == ["raised by rank 1"]


def test_rank_that_raises_ends_those_that_wait_for_a_message_or_poll() -> None:
    def body(wire: ThreadTransport) -> None:
        if wire.rank == 1:
            raise ArithmeticError("rank 1 cannot count")
        request = wire.receive(np.zeros(3), 1, 0)
        if wire.rank == 0:
            request.Wait()
        while not request.Test():
            pass

    with pytest.raises(ArithmeticError):
        run_threads(3, body)


def test_rank_that_raises_ends_those_that_only_check() -> None:
    def body(wire: ThreadTransport) -> None:
        wire.check()
        wire.gather_objects(None)
        if wire.rank == 1:
            raise ArithmeticError("rank 1 cannot count")
        while True:
            wire.check()

    with pytest.raises(ArithmeticError):
        run_threads(3, body)


def test_error_that_all_ranks_raise_needs_no_note() -> None:
    def body(wire: ThreadTransport) -> None:
        raise ArithmeticError("nobody can count")

    with pytest.raises(ArithmeticError) as caught:
        run_threads(3, body)
    assert not hasattr(caught.value, "__notes__")


def test_abort_ends_all_with_its_message() -> None:
    def body(wire: ThreadTransport) -> None:
        if wire.rank == 2:
            wire.abort("the sky falls", 1)
        wire.gather_objects(None)

    with pytest.raises(TransportError, match="the sky falls"):
        run_threads(3, body)


@pytest.mark.parametrize(
    ("sent", "room"), [(np.zeros(3), np.zeros(4)), (np.zeros(3), np.zeros(3, np.float32))]
)
def test_message_that_does_not_fit_is_named(sent: np.ndarray, room: np.ndarray) -> None:  # type: ignore[type-arg]  # of floats
    def body(wire: ThreadTransport) -> None:
        if wire.rank:
            wire.send(sent, 0, 7)
        else:
            wire.receive(room, 1, 7).Wait()

    with pytest.raises(
        TransportError,
        match=rf"rank 0 receives {room.size} {room.dtype} with tag 7, but rank 1 sent 3 float64",
    ):
        run_threads(2, body)


def test_sums_do_not_depend_on_who_arrives_first() -> None:
    # In float64, (1e16 + 1) - 1e16 is 0, but (1e16 - 1e16) + 1 is 1: the order shows.
    brought = [1e16, 1.0, -1e16]

    def body(late: int) -> list[float]:
        def rank_body(wire: ThreadTransport) -> float:
            # The late rank comes to the sum only when it knows that the others have begun theirs.
            if wire.rank == late:
                for other in {0, 1, 2} - {late}:
                    wire.receive(np.empty(1), other, 0).Wait()
            array = np.array([brought[wire.rank]])
            request = wire.start_collective(CollectiveKind.ALLREDUCE, array, [], 0)
            if wire.rank != late:
                wire.send(np.empty(1), late, 0)
            request.Wait()
            return float(array[0])

        return run_threads(3, rank_body)

    assert [body(late) for late in range(3)] == [[(1e16 + 1.0) - 1e16] * 3] * 3


def test_rank_that_fails_with_a_lock_held_ends_those_that_wait_for_it() -> None:
    def body(wire: ThreadTransport) -> None:
        lock = wire.lock()
        if wire.rank == 0:
            lock.acquire()
        wire.gather_objects(None)
        if wire.rank == 0:
            raise ValueError("rank 0 has lost its key")
        lock.acquire()
        raise AssertionError("nobody may come here")

    with pytest.raises(ValueError, match="lost its key"):
        run_threads(3, body)
