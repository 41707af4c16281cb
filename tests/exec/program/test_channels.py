"""Which rank talks to which, and for which programs the order of messages is enough."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from exec.errors import UsageError
from exec.plan.collectives import expand
from exec.plan.strategy import Strategy
from exec.program.channels import check_order, talking_pairs
from exec.program.mesh import Mesh
from tests.exec.program.test_check import two_ranks
from tests.exec.random_plans import SCHEMES, Case, all_cases, schemes

NAMED = tuple(each for each in SCHEMES if each is not Strategy.ASYNC_SERVER)
SETTINGS = settings(max_examples=60)
BOTH = "  comm send param[0:1] to=dp=1 tag=1 id=a\n  comm send param[1:2] to=dp=1 tag=2 id=b\n"
A = "  comm receive param[0:1] from=dp=0 tag=1 id=a\n"
B = "  comm receive param[1:2] from=dp=0 tag=2 id=b\n"


@SETTINGS
@given(all_cases())
def test_messages_of_every_step_are_received_in_the_order_in_which_they_are_sent(
    case: Case,
) -> None:
    check_order(case.expanded)


@SETTINGS
@given(schemes(strategies=NAMED))
def test_messages_of_every_scheme_but_one_are_received_in_order(case: Case) -> None:
    for segment in case.segments(3 * case.workload.global_batch):
        check_order(segment.program)


def test_server_that_hears_whoever_comes_is_refused() -> None:
    case = Case.of("3-2", 8, Mesh(dp=3), strategy=Strategy.ASYNC_SERVER)
    program = case.segments(40)[0].program
    with pytest.raises(UsageError, match="rank 0 receives push from any rank; use --transport mpi"):
        check_order(program)
    assert talking_pairs([program]) == [(1, 0), (2, 0)]  # the answers go to whoever asked


def test_messages_received_in_another_order_are_refused_by_name() -> None:
    check_order(two_ranks(BOTH, A + B))
    with pytest.raises(
        UsageError,
        match=r"rank 0 sends a \(tag 1\) where rank 1 receives b \(tag 2\); use --transport mpi",
    ):
        check_order(two_ranks(BOTH, B + A))


def test_message_that_is_not_received_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"rank 0 sends b \(tag 2\) where rank 1 receives nothing"):
        check_order(two_ranks(BOTH, A))


def test_turns_of_the_two_ranks_need_not_be_as_many() -> None:
    program = two_ranks(BOTH.replace("tag=2", "tag=1"), A)
    first, second = program.roles
    check_order(replace(program, roles=(first, replace(second, times=2))))
    with pytest.raises(UsageError):
        check_order(program)


def test_pairs_of_a_pipeline_are_neighbours_both_ways() -> None:
    case = Case.of("6-5-4-3", 8, Mesh(pp=3), num_microbatches=2)
    assert talking_pairs([expand(case.program)]) == [(0, 1), (1, 0), (1, 2), (2, 1)]
