"""Laws of programs: a role is written once and resolved for each of its ranks."""

import pytest

from exec.program.mesh import Axis, Mesh
from exec.program.ops import Lane, Mark, Op, Receive, Repeat, Send, Wait, lane_of
from exec.program.peers import Part, Rank, Shift
from exec.program.program import Program, Role

PART = Part("grad", 0, 4)
ROUND = Repeat(3, (Send("give", PART, Shift(Axis.DP, 1, 1), 1), Mark("given")))


def program(*ops: Op) -> Program:
    """Return the program of four ranks that all do ``ops``."""
    return Program(Mesh(dp=4), 4, (Role("all", range(4), range(1), range(1), ops),))


def test_repeat_is_unrolled_and_its_peers_move() -> None:
    ops = list(program(ROUND, Mark("end")).ops(2))
    assert [op.peer for op in ops if isinstance(op, Send)] == [Rank(3), Rank(0), Rank(1)]
    assert [op.id for op in ops if isinstance(op, Mark)] == ["given"] * 3 + ["end"]


def test_ops_of_a_rank_name_concrete_ranks_only() -> None:
    ops = program(Receive("take", PART, Shift(Axis.DP, -1), 1)).ops(0)
    assert list(ops) == [Receive("take", PART, Rank(3), 1)]


def test_repeat_inside_a_repeat_is_refused() -> None:
    with pytest.raises(ValueError, match="a repeat must not hold another repeat"):
        list(program(Repeat(1, (ROUND,))).ops(0))


def test_roles_know_their_ranks() -> None:
    mesh = Mesh(2, 2, 2)
    roles = [
        Role(f"{stage}{tp}", range(2), range(stage, stage + 1), range(tp, tp + 1), ())
        for stage in range(2)
        for tp in range(2)
    ]
    found = Program(mesh, 4, tuple(roles))
    for role in roles:
        ranks = list(found.ranks_of(role))
        assert len(ranks) == role.num_ranks == 2
        assert all(found.role_of(rank) is role for rank in ranks)


def test_rank_without_a_role_is_an_error() -> None:
    with pytest.raises(ValueError, match="rank must play one of the 1 roles, got 4"):
        program().role_of(4)


def test_wait_is_on_the_lane_that_it_holds() -> None:
    assert [lane_of(Wait(lane, "a")) for lane in Lane] == list(Lane)
    assert {lane_of(op) for op in (ROUND, *ROUND.body)} == {Lane.COMM}
