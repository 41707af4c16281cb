"""Laws of the monitor: totals that grow, each rank's own, whatever the number of readings."""

import mmap
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from exec.runtime import monitor as monitor_module
from exec.runtime.monitor import Monitor, Usage
from exec.runtime.utilisation import cpu_cores
from exec.transport.threads import ThreadTransport, run_threads

SPUN_S = 0.1


def spin() -> None:
    """Compute for ``SPUN_S`` of this thread's CPU time, however long that takes."""
    end_s = time.thread_time() + SPUN_S
    while time.thread_time() < end_s:
        pass


def cpu_s_of(usage: Usage) -> float:
    """Return the CPU time that the rank used."""
    return usage.readings[-1].cpu_s - usage.readings[0].cpu_s


def test_busy_rank_uses_a_core_and_a_waiting_one_none() -> None:
    def body(wire: ThreadTransport) -> list[Usage]:
        with Monitor(wire, interval_s=0.01) as monitor:
            if wire.rank == 0:
                spin()
            wire.gather_objects(None)
        return monitor.gather(0.0)

    busy, waiting = run_threads(2, body)[0]
    assert busy.shares_memory
    assert waiting.shares_memory
    # A thread has at most the time that passes. The waiting rank does microseconds of work; where
    # the clock were that of the process, it would show all that the busy one does.
    wall_s = busy.readings[-1].time_s - busy.readings[0].time_s
    assert SPUN_S <= cpu_s_of(busy) <= 1.01 * wall_s
    assert cpu_s_of(waiting) < 0.1 * SPUN_S


def test_lone_rank_has_the_cpu_time_of_all_its_threads() -> None:
    def body(wire: ThreadTransport) -> list[Usage]:
        with Monitor(wire) as monitor:
            other = threading.Thread(target=spin)
            other.start()
            other.join()
        return monitor.gather(0.0)

    (usage,) = run_threads(1, body)[0]
    assert not usage.shares_memory
    assert cpu_s_of(usage) >= SPUN_S


def test_readings_begin_and_end_with_the_block_and_move_on_in_between() -> None:
    def body(wire: ThreadTransport) -> tuple[float, float, list[Usage]]:
        monitor = Monitor(wire, interval_s=0.005)
        start_s = time.perf_counter()
        with monitor:
            spin()
        end_s = time.perf_counter()
        return start_s, end_s, monitor.gather(start_s)

    start_s, end_s, (usage,) = run_threads(1, body)[0]
    readings = usage.readings
    assert 0 <= readings[0].time_s < readings[-1].time_s <= end_s - start_s
    for a, b in pairwise(readings):
        assert a.time_s < b.time_s
        assert a.cpu_s <= b.cpu_s
    assert all(cores >= 0 for cores in cpu_cores(readings))


def test_shortest_block_has_two_readings() -> None:
    def body(wire: ThreadTransport) -> list[Usage]:
        with Monitor(wire) as monitor:
            pass
        return monitor.gather(0.0)

    for usage in run_threads(3, body)[0]:
        first, last = usage.readings
        assert first.time_s < last.time_s


def test_bytes_are_those_that_this_rank_sent() -> None:
    def body(wire: ThreadTransport) -> list[Usage]:
        with Monitor(wire) as monitor:
            if wire.rank:
                wire.send(np.zeros(wire.rank), 0, 0).Wait()
            else:
                for source in (1, 2):
                    wire.receive(np.empty(source), source, 0).Wait()
        return monitor.gather(0.0)

    usages = run_threads(3, body)[0]
    assert [usage.rank for usage in usages] == [0, 1, 2]
    assert [usage.readings[0].sent_nbytes for usage in usages] == [0, 0, 0]
    assert [usage.readings[-1].sent_nbytes for usage in usages] == [0, 8, 16]


def test_memory_shows_what_was_allocated() -> None:
    def body(wire: ThreadTransport) -> list[Usage]:
        with Monitor(wire) as monitor:
            kept = mmap.mmap(-1, 64 << 20)  # not what the allocator may have in store
            np.frombuffer(kept, np.uint8).fill(1)
        assert len(kept) == 64 << 20
        return monitor.gather(0.0)

    (usage,) = run_threads(1, body)[0]
    grown = usage.readings[-1].memory_nbytes - usage.readings[0].memory_nbytes
    assert grown >= 60 << 20  # a little may have been given back meanwhile


def test_long_run_keeps_few_readings_and_loses_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "MAX_READINGS", 8)

    def body(wire: ThreadTransport) -> tuple[float, list[Usage]]:
        start_s = time.perf_counter()
        with Monitor(wire, interval_s=0.001) as monitor:
            spin()
        return start_s, monitor.gather(0.0)

    start_s, (usage,) = run_threads(1, body)[0]
    assert 2 <= len(usage.readings) <= 9  # and the last
    assert cpu_s_of(usage) >= SPUN_S
    assert usage.readings[-1].time_s - start_s >= SPUN_S


def test_monitor_that_is_off_reads_nothing_and_starts_no_thread() -> None:
    def body(wire: ThreadTransport) -> list[Usage]:
        with Monitor(wire, is_on=False) as monitor:
            assert "monitor" not in {thread.name for thread in threading.enumerate()}
        return monitor.gather(0.0)

    assert run_threads(2, body) == [[], []]


def test_sampler_ends_with_a_block_that_fails() -> None:
    def body(wire: ThreadTransport) -> None:
        with Monitor(wire):
            assert "monitor" in {thread.name for thread in threading.enumerate()}
            raise ArithmeticError("cannot count")

    with pytest.raises(ArithmeticError):
        run_threads(1, body)
    assert "monitor" not in {thread.name for thread in threading.enumerate()}
