"""The barrier of flags: nobody leaves before all have come, and a wait can be ended."""

import threading

import numpy as np
import pytest

from exec.transport.flags import FLAG_ELEMENTS, flag_barrier

TURNS = 40


def flags_of(ranks: int) -> list[np.ndarray]:
    """Return every rank's flag, zeroed."""
    return [np.zeros(FLAG_ELEMENTS, np.int64) for _ in range(ranks)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("is_crowded", [True, False])
def test_nobody_leaves_before_all_have_come(ranks: int, is_crowded: bool) -> None:
    flags, come = flags_of(ranks), [0] * ranks
    early: list[int] = []

    def body(rank: int) -> None:
        barrier = flag_barrier(flags, rank, lambda: None, lambda: None, is_crowded=is_crowded)
        for turn in range(1, TURNS + 1):
            come[rank] = turn
            barrier()
            early.extend(other for other in range(ranks) if come[other] < turn)

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert early == []
    assert [int(flag[0]) for flag in flags] == [TURNS] * ranks


@pytest.mark.parametrize("is_crowded", [True, False])
def test_long_wait_lets_others_progress_until_they_come(is_crowded: bool) -> None:
    flags = flags_of(2)
    helped: list[int] = []

    def progress() -> None:
        helped.append(len(helped))
        if len(helped) == 3:
            flags[1][0] = 1

    flag_barrier(flags, 0, lambda: None, progress, is_crowded=is_crowded)()
    assert len(helped) == 3


def test_wait_ends_with_the_failure_that_progress_finds() -> None:
    def progress() -> None:
        raise ConnectionError("rank 1 has died")

    barrier = flag_barrier(flags_of(2), 0, lambda: None, progress, is_crowded=True)
    with pytest.raises(ConnectionError, match="rank 1 has died"):
        barrier()


def test_memory_is_fenced_before_the_flag_is_set_and_after_all_were_seen() -> None:
    flags = flags_of(2)
    seen: list[int] = []
    flags[1][0] = 1
    barrier = flag_barrier(
        flags, 0, lambda: seen.append(int(flags[0][0])), lambda: None, is_crowded=False
    )
    barrier()
    assert seen == [0, 1]
