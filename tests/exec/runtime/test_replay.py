"""Recorded arrivals: whatever a run recorded is accepted, whatever would hang is refused."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.program.staleness import staleness, staleness_record
from exec.runtime.replay import check_arrivals, read_arrivals


def arrivals_of_a_run(
    num_servers: int, num_workers: int, tickets: list[int], seed: int
) -> list[list[int]]:
    """Return an epoch in which at any time any of the messages under way may come next."""
    generator = random.Random(seed)
    workers = range(num_servers, num_servers + num_workers)
    turns = [(i, n) for i, count in enumerate(tickets) for n in range(count)]
    found: list[list[int]] = [[] for _ in range(num_servers)]
    under_way = []  # (worker, server)
    at = dict.fromkeys(workers, 0)
    tickets_of = {worker: worker - num_servers for worker in workers}

    def push(worker: int) -> None:
        while at[worker] < len(tickets) and not 0 <= tickets_of[worker] < tickets[at[worker]]:
            at[worker] += 1
            tickets_of[worker] = worker - num_servers
        if at[worker] < len(tickets):
            under_way.extend((worker, server) for server in range(num_servers))

    for worker in workers:
        push(worker)
    while under_way:
        worker, server = under_way.pop(generator.randrange(len(under_way)))
        if server == num_servers - 1:
            segment, turn = turns[len(found[server])]
            ticket = num_workers + turn
            tickets_of[worker] = ticket if ticket < tickets[segment] else -1
        found[server].append(worker)
        if worker not in {each for each, _ in under_way}:
            push(worker)
    return found


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.booleans(), st.integers(0, 10**6)
)
def test_what_a_run_can_record_is_accepted_and_one_worker_too_few_is_not(
    num_servers: int, num_workers: int, full: int, has_rest: bool, seed: int
) -> None:
    tickets = [full, 1] if has_rest else [full]
    epochs = [arrivals_of_a_run(num_servers, num_workers, tickets, seed + i) for i in range(2)]
    arrivals = [one + other for one, other in zip(*epochs, strict=True)]
    workers = range(num_servers, num_servers + num_workers)
    check_arrivals(arrivals, workers, tickets, 2)
    assert all(len(each) == 2 * sum(tickets) for each in arrivals)
    with pytest.raises(UsageError, match=f"2 x {sum(tickets)} messages to each server"):
        check_arrivals([each[1:] for each in arrivals], workers, tickets, 2)
    if num_workers > 1 and full > 1:  # the last worker is never heard
        lost = [[workers[0] if each == workers[1] else each for each in one] for one in arrivals]
        with pytest.raises(UsageError, match="in epoch 1 one would never be answered"):
            check_arrivals(lost, workers, tickets, 2)


def test_order_in_which_servers_wait_for_one_another_is_refused() -> None:
    check_arrivals([[2, 3, 2, 3], [3, 2, 3, 2]], range(2, 4), [4], 1)
    with pytest.raises(UsageError, match="in which 2 workers can come"):
        check_arrivals([[2, 2, 3, 3], [3, 3, 2, 2]], range(2, 4), [4], 1)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '{"ranks": 3}', '{"ranks": 3, "arrivals": 1}',
     '{"ranks": 3, "arrivals": ["12"]}', '{"ranks": 3, "arrivals": [[1.5]]}',
     '{"ranks": 3, "arrivals": [[Infinity]]}', '{"ranks": 3, "arrivals": [[[1]]]}', "\xff"],
)  # fmt: skip
def test_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "arrivals.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="replay must be a file that --arrivals wrote"):
        read_arrivals(path, 1, 3)


@pytest.mark.parametrize(
    ("ranks", "arrivals"),
    [(4, [[1, 2]]), (3, [[1], [2]]), (3, [])],
)
def test_other_run_s_file_is_refused(tmp_path: Path, ranks: int, arrivals: list[list[int]]) -> None:
    path = tmp_path / "arrivals.json"
    path.write_text(json.dumps({"ranks": ranks, "arrivals": arrivals}), encoding="utf-8")
    with pytest.raises(UsageError, match="replay must be of a run with 3 ranks and 1 of them"):
        read_arrivals(path, 1, 3)


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.json"
    path.write_text('{"ranks": 4, "arrivals": [[2, 3, 2], [3, 2, 2]]}\n', encoding="utf-8")
    assert read_arrivals(path, 2, 4) == ((2, 3, 2), (3, 2, 2))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_in_turn_are_stale_by_the_others(workers: int) -> None:
    found = staleness([i % workers for i in range(20 * workers)])
    assert found == [*range(workers), *[workers - 1] * (19 * workers)]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=40))
def test_staleness_of_each_sender_adds_up_to_the_updates_of_others(arrivals: list[int]) -> None:
    found = staleness(arrivals)
    for sender in set(arrivals):
        own = [i for i, each in enumerate(arrivals) if each == sender]
        # Until its last gradient, all updates but its own have come between.
        assert sum(found[i] for i in own) == own[-1] + 1 - len(own)
    record = staleness_record(arrivals)
    assert sum(record["counts"].values()) == sum(record["gradients_of_rank"].values())
    assert record["mean"] * len(found) == pytest.approx(sum(found), rel=1e-12, abs=0)
    assert record["median"] <= record["p90"] <= record["max"] == max(found)


@pytest.mark.parametrize("stranger", [0, 3, -1])
def test_order_that_names_no_worker_is_refused(tmp_path: Path, stranger: int) -> None:
    path = tmp_path / "arrivals.json"
    path.write_text(json.dumps({"ranks": 3, "arrivals": [[1, stranger]]}), encoding="utf-8")
    with pytest.raises(UsageError, match=f"replay must name workers, 1 .. 2, got rank {stranger} in"):  # fmt: skip
        read_arrivals(path, 1, 3)
