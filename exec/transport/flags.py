"""A barrier of the ranks of one node: a flag of each in memory that all of them read.

Each rank counts the barriers that it has come to in its own flag, and waits until all others have
counted as far. Nobody writes another's flag, and each is in cache lines of its own, so that a
barrier of two ranks is one line that goes each way; MPI's own takes some ten times as long.

Source: J. M. Mellor-Crummey and M. L. Scott, "Algorithms for scalable synchronization on
shared-memory multiprocessors", ACM Trans. Comput. Syst. 9 (1991) 21-65: spinning on a flag that
only its owner writes, one to a line.
"""

import os
from collections.abc import Callable, Sequence
from itertools import count

from exec.transport.protocol import Buffer

FLAG_ELEMENTS = 16
"""Elements of eight bytes that a rank's flag takes: two lines, since these are fetched in pairs."""

_POLLS = 200
"""How often a flag is looked at before the core is offered to others: some 15 us."""


def flag_barrier(
    flags: Sequence[Buffer], rank: int, fence: Callable[[], object], progress: Callable[[], object],
    *, is_crowded: bool,
) -> Callable[[], None]:  # fmt: skip
    """Return a call that returns when all ranks have made it as often as this one.

    ``flags`` are every rank's, of int64 and zero. ``fence`` lets no access to memory pass it.
    ``progress`` is called while the wait is long: what another rank has to do before it comes
    may need this one, and a failure shows there. Where ranks outnumber cores, which is what
    ``is_crowded`` says, the core is offered at once.
    """
    own, *others = (flags[(rank + i) % len(flags)].data for i in range(len(flags)))
    polls = 0 if is_crowded else _POLLS
    times = count(1)

    def wait_for(flag: memoryview, number: int) -> None:
        left = polls
        while flag[0] < number:
            if left:
                left -= 1
            else:
                progress()
                os.sched_yield()

    def barrier() -> None:
        number = next(times)
        fence()
        own[0] = number
        for flag in others:
            if flag[0] < number:
                wait_for(flag, number)
        fence()

    return barrier


def usable_cores() -> frozenset[int]:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))
