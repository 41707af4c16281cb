"""A pool gives every task to one group, all of whose ranks do it."""

import json

import pytest

from exec.errors import UsageError
from exec.transport.pool import num_groups
from tests.conftest import Launch
from tests.exec.transport.pool_job import NUM_TASKS

JOB = "tests.exec.transport.pool_job"


@pytest.mark.parametrize(("ranks", "size", "groups"), [(1, 1, 1), (1, 4, 1), (2, 1, 1), (5, 2, 2), (6, 2, 2), (9, 8, 1)])  # fmt: skip
def test_rank_0_hands_out_and_the_others_form_groups(ranks: int, size: int, groups: int) -> None:
    assert num_groups(ranks, size) == groups


@pytest.mark.parametrize(("ranks", "size", "message"), [(3, 3, "at most 2"), (2, 5, "at most 1"), (4, 0, "at least 1")])  # fmt: skip
def test_groups_that_cannot_be_are_refused(ranks: int, size: int, message: str) -> None:
    with pytest.raises(UsageError, match=f"ranks-per-trial must be {message}"):
        num_groups(ranks, size)


@pytest.mark.mpi
@pytest.mark.parametrize(("ranks", "size"), [(3, 1), (6, 2)])
def test_every_task_is_done_by_a_whole_group(launch: Launch, ranks: int, size: int) -> None:
    ended = launch(ranks, JOB, str(size), "work")
    assert ended.returncode == 0, ended.stderr
    assert [total for total, _ in json.loads(ended.stdout)] == [size * i for i in range(NUM_TASKS)]


@pytest.mark.mpi
def test_rank_that_raises_in_a_task_ends_the_job_and_is_named(launch: Launch) -> None:
    ended = launch(3, JOB, "2", "raise", timeout_s=20)
    assert ended.returncode != 0
    assert "error: rank 2 of 3 failed: ValueError: the work of rank 2 is wrong" in ended.stderr


@pytest.mark.mpi
def test_rank_that_is_killed_in_a_task_ends_the_job(launch: Launch) -> None:
    ended = launch(3, JOB, "1", "kill", timeout_s=20)
    assert ended.returncode != 0
    assert ended.stdout.count("[[") == 0


@pytest.mark.mpi
def test_groups_that_are_given_back_can_be_made_without_end(launch: Launch) -> None:
    ended = launch(2, JOB, "split")
    assert ended.returncode == 0, ended.stderr
