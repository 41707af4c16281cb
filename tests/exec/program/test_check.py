"""The legality check: what is planned is legal; what is broken is named and drawn."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings

from exec.errors import IllegalProgramError
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.check import check_program
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.program.parse import parse_program
from exec.program.program import Program
from exec.program.text import format_program
from exec.workload import Workload
from tests.exec.random_plans import Case, all_cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=400)


@SETTINGS
@given(all_cases())
def test_every_planned_program_is_legal(case: Case) -> None:
    check_program(case.program)


@SETTINGS
@given(all_cases())
def test_every_expanded_program_is_legal(case: Case) -> None:
    check_program(case.expanded)


@settings(SETTINGS, max_examples=60)
@given(all_cases())
def test_short_last_batch_is_legal_too(case: Case) -> None:
    # The last batch of an epoch may be smaller than the number of ranks: some have nothing to do.
    for batch in {1, case.workload.global_batch // 2 or 1}:
        workload = replace(case.workload, global_batch=batch)
        check_program(expand(plan_step(workload, case.mesh, case.options)))


def two_ranks(first: str, second: str, itemsize: int = 4) -> Program:
    """Return the program in which rank 0 does the ops of ``first`` and rank 1 those of ``second``."""
    return parse_program(
        f"program mesh=2x1x1 itemsize={itemsize}\n"
        f"role a dp=0 pp=0 tp=0 slots=1 nbytes=0\n{first}\nrole b dp=1 pp=0 tp=0 slots=1 nbytes=0\n{second}\n"
    )


def message_of(program: Program) -> str:
    """Return what the check says of an illegal ``program``."""
    with pytest.raises(IllegalProgramError) as caught:
        check_program(program)
    return str(caught.value)


def marks(message: str) -> dict[tuple[int, str], str]:
    """Return the op that the grid of ``message`` marks, by rank and lane."""
    rows = re.findall(r"^rank (\d+) +(compute|comm) +\|.*>([^<|]*)<", message, re.MULTILINE)
    return {(int(rank), lane): token for rank, lane, token in rows}


SEND = "comm send grad[0:4] to=dp+1 tag=1 id=give"
RECEIVE = "comm receive grad[0:4] from=dp-1 tag=1 id=take"
ALLREDUCE = "comm allreduce grad[0:4] axis=dp algorithm=library root=0 id=sum"


def test_matched_message_is_legal() -> None:
    check_program(two_ranks(f"{SEND}\ncomm wait give", RECEIVE))


def test_missing_receive_is_caught() -> None:
    message = message_of(two_ranks(SEND, "comm mark idle"))
    assert "rank 0 sends give (tag 1) to rank 1, which never receives it" in message
    assert re.search(r"^rank 0 +comm +\| send give", message, re.MULTILINE)


def test_missing_receive_is_caught_where_its_send_is_awaited() -> None:
    message = message_of(two_ranks(f"{SEND}\ncomm wait give", "comm mark idle"))
    assert "rank 0 (comm) waits for give" in message
    assert marks(message) == {(0, "comm"): "wait give"}


def test_missing_send_is_caught() -> None:
    message = message_of(two_ranks("comm mark idle", RECEIVE))
    assert "rank 1 waits to receive take (tag 1) from rank 0" in message
    assert marks(message) == {(1, "comm"): "recv take"}


def test_crossed_order_is_caught() -> None:
    # Each would send after it has received.
    ops = (
        "comm receive grad[0:4] from=dp+1 tag=1 id=take\ncomm send grad[0:4] to=dp+1 tag=1 id=give"
    )
    message = message_of(two_ranks(ops, ops))
    assert message.startswith("deadlock: 2 lanes never end")
    assert "rank 0 waits to receive take (tag 1) from rank 1" in message
    assert "rank 1 waits to receive take (tag 1) from rank 0" in message
    assert marks(message) == {(0, "comm"): "recv take", (1, "comm"): "recv take"}


def test_both_may_send_first() -> None:
    ops = (
        "comm send grad[0:4] to=dp+1 tag=1 id=give\ncomm receive grad[4:8] from=dp+1 tag=1 id=take"
    )
    check_program(two_ranks(f"{ops}\ncomm wait give", f"{ops}\ncomm wait give"))


def test_waits_between_lanes_that_go_round_are_caught() -> None:
    compute = "compute load layer=0 mb=0 shape=1x2x3 flops=0 nbytes=0"
    ring = f"compute wait done\n{compute}\ncomm wait load.0.0\ncomm mark done"
    message = message_of(two_ranks(ring, "comm mark idle"))
    assert marks(message) == {(0, "compute"): "wait done", (0, "comm"): "wait load.0.0"}


def test_other_tag_is_caught() -> None:
    message = message_of(two_ranks(SEND, RECEIVE.replace("tag=1", "tag=2")))
    assert "rank 1 waits to receive take (tag 2) from rank 0" in message
    assert marks(message) == {(1, "comm"): "recv take"}


def test_wrong_size_is_caught() -> None:
    message = message_of(two_ranks(SEND, RECEIVE.replace("0:4", "0:5")))
    assert "rank 1 receives take of 5 elements, but rank 0 sends give of 4" in message
    assert marks(message)[1, "comm"] == "recv take"


def test_message_to_itself_is_caught() -> None:
    message = message_of(two_ranks(SEND.replace("dp+1", "dp+2"), "comm mark idle"))
    assert "rank 0 sends give to itself" in message
    assert marks(message) == {(0, "comm"): "send give"}


def test_message_to_a_rank_that_is_not_there_is_caught() -> None:
    assert "rank 0 sends give (tag 1) to rank 5, which never receives it" in message_of(
        two_ranks(SEND.replace("dp+1", "dp=5"), "comm mark idle")
    )


@pytest.mark.parametrize(
    ("here", "there"),
    [("0:4", "0:5"), ("allreduce", "reduce"), ("root=0", "root=1"), ("id=sum", "id=mean")],
)
def test_collective_that_the_ranks_disagree_on_is_caught(here: str, there: str) -> None:
    message = message_of(two_ranks(ALLREDUCE, ALLREDUCE.replace(here, there)))
    assert "ranks 0 and 1 are of one dp group but disagree" in message
    assert here in message
    assert there in message
    assert set(marks(message)) == {(0, "comm"), (1, "comm")}


def test_collectives_in_another_order_are_caught() -> None:
    other = ALLREDUCE.replace("sum", "mean")
    message = message_of(two_ranks(f"{ALLREDUCE}\n{other}", f"{other}\n{ALLREDUCE}"))
    assert "ranks 0 and 1 are of one dp group but disagree" in message
    assert marks(message) == {(0, "comm"): "sum", (1, "comm"): "mean"}


def test_collective_of_the_wrong_group_is_caught() -> None:
    text = (
        "program mesh=2x1x2 itemsize=4\n"
        f"role a dp=0 pp=0 tp=0:2 slots=1 nbytes=0\n{ALLREDUCE}\n"
        f"role b dp=1 pp=0 tp=0:2 slots=1 nbytes=0\n{ALLREDUCE.replace('axis=dp', 'axis=tp')}\n"
    )
    message = message_of(parse_program(text))
    assert "rank 0 waits in allreduce sum for ranks [2]" in message
    assert "rank 1 waits in allreduce sum for ranks [3]" in message
    assert marks(message) == {(0, "comm"): "sum", (1, "comm"): "sum"}


def test_collective_that_a_rank_misses_is_caught() -> None:
    message = message_of(two_ranks(ALLREDUCE, "comm mark idle"))
    assert "rank 0 waits in allreduce sum for ranks [1]" in message
    assert marks(message) == {(0, "comm"): "sum"}


def test_wait_for_an_id_that_nobody_has_is_caught() -> None:
    message = message_of(two_ranks("comm mark idle", "comm mark idle\ncomm wait idel"))
    assert "rank 1 waits for idel, which none of its ops is called" in message
    assert marks(message) == {(1, "comm"): "wait idel"}


@pytest.mark.parametrize(
    ("dp", "players"), [("0:3", 3), ("0:1", 1), ("1:3", 2)], ids=["twice", "nobody", "strangers"]
)
def test_role_that_is_played_wrongly_is_caught(dp: str, players: int) -> None:
    text = f"program mesh=2x1x1 itemsize=4\nrole all dp={dp} pp=0 tp=0 slots=1 nbytes=0\ncomm mark idle\n"
    message = message_of(parse_program(text))
    assert (
        f"every one of the 2 ranks must play exactly one role; the roles all name {players}"
        in message
    )


def test_rank_with_two_roles_is_caught() -> None:
    message = message_of(
        two_ranks(
            SEND,
            RECEIVE.replace(
                "id=take", "id=take\nrole c dp=1 pp=0 tp=0 slots=1 nbytes=0\ncomm mark x"
            ),
        )
    )
    assert "the roles a, b, c name 3" in message


def test_receive_from_any_rank_takes_what_comes() -> None:
    check_program(two_ranks(f"{SEND}\ncomm wait give", RECEIVE.replace("from=dp-1", "from=any")))


HYBRID = expand(
    plan_step(
        Workload(mlp(6, 5, 4), 8),
        Mesh(2, 2, 2),
        PlanOptions(2, algorithm=Algorithm.HALVING_DOUBLING),
    )
)
MOVES = [
    i for i, line in enumerate(format_program(HYBRID).splitlines())
    if re.match(r" +comm (send|receive) ", line)
]  # fmt: skip


@pytest.mark.parametrize("line", MOVES)
def test_any_one_message_op_left_out_of_a_hybrid_is_caught(line: int) -> None:
    lines = format_program(HYBRID).splitlines()
    lost = lines.pop(line)
    message = message_of(parse_program("\n".join(lines)))
    assert re.search(r"\brank \d+", message), lost
    assert re.search(r"^rank \d+ +comm +\|", message, re.MULTILINE), lost
