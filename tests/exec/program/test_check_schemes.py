"""The legality check of servers, tickets and locks: what is broken is named and drawn."""

import re
from dataclasses import replace

import pytest

from exec.plan.strategy import Strategy
from exec.program.check import check_program
from exec.program.mesh import Mesh
from exec.program.parse import parse_program
from exec.program.program import Program
from exec.program.text import format_program
from tests.exec.program.test_check import marks, message_of, two_ranks
from tests.exec.random_plans import Case


def planned(
    strategy: Strategy, ranks: int = 3, num_samples: int = 40, **options: object
) -> Program:
    """Return the first program of an epoch of ``strategy``: 10 tickets of 4 samples, if it has any."""
    case = Case.of("3-2", 8, Mesh(dp=ranks), strategy=strategy, **options)
    return case.segments(num_samples)[0].program


def edited(program: Program, old: str, new: str, count: int = 1) -> Program:
    """Return ``program`` with ``old``, which must be in its text so often, replaced by ``new``."""
    text = format_program(program)
    assert text.count(old) == count, text
    return parse_program(text.replace(old, new))


ASYNC = planned(Strategy.ASYNC_SERVER)
SERVER = planned(Strategy.SERVER)
LOCK = planned(Strategy.SHARED_LOCK)
PULL = "  comm send param[0:9] to=sender(push) tag=6 id=pull\n  comm wait pull\n"


def test_planned_programs_are_legal() -> None:
    for program in (ASYNC, SERVER, LOCK):
        check_program(program)
    assert ASYNC.tickets == 10


def test_server_that_never_answers_is_caught() -> None:
    message = message_of(edited(ASYNC, PULL, ""))
    assert message.startswith("deadlock: ")
    assert "rank 1 waits to receive pull.0 (tag 6) from rank 0" in message
    assert "rank 2 waits to receive pull.0 (tag 6) from rank 0" in message
    assert marks(message)[1, "comm"] == "recv pull.0"


def test_server_that_answers_one_worker_only_is_caught() -> None:
    message = message_of(edited(ASYNC, "to=sender(push)", "to=dp=1"))
    assert "rank 2 waits to receive pull.0 (tag 6) from rank 0" in message


@pytest.mark.parametrize(("strategy", "id"), [("server", "pull"), ("master_round_trip", "model")])
def test_worker_that_is_left_out_is_caught(strategy: str, id: str) -> None:
    program = planned(Strategy(strategy))
    sends = re.findall(rf"  comm repeat 2\n    comm send .* id={id}\n", format_program(program))
    message = message_of(edited(program, sends[0], sends[0].replace("repeat 2", "repeat 1")))
    assert "rank 2 waits to receive" in message
    assert marks(message)[2, "comm"].startswith("recv")


def test_server_with_a_ticket_too_few_is_caught() -> None:
    message = message_of(edited(ASYNC, " times=10", " times=9"))
    assert re.search(r"rank [12] waits to receive pull.0 \(tag 6\) from rank 0", message)


def test_server_with_a_ticket_too_many_is_caught() -> None:
    message = message_of(edited(ASYNC, " times=10", " times=11"))
    assert "rank 0 waits to receive push (tag 5) from any rank" in message
    assert marks(message)[0, "comm"] == "recv push"


def test_one_of_two_servers_with_a_ticket_too_few_is_caught() -> None:
    program = planned(Strategy.ASYNC_SERVER, 4, servers=2)
    first, *others = program.roles
    assert first.times == program.tickets
    fewer = replace(program, roles=(replace(first, times=first.times - 1), *others))
    assert re.search(r"rank [23] waits to receive pull.0 \(tag 6\) from rank 0", message_of(fewer))


def test_ticket_that_is_never_granted_is_caught() -> None:
    # The workers end after their first tickets, and the server waits for more.
    message = message_of(edited(ASYNC, "  comm grant param[8:9]\n", ""))
    assert "rank 0 waits to receive push (tag 5) from any rank" in message


def test_synchronous_server_that_hears_too_few_or_too_many_is_caught() -> None:
    program = planned(Strategy.SERVER, 4)
    text = format_program(program)
    assert text.count("  comm repeat 2\n    comm receive") == 1
    fewer = message_of(parse_program(text.replace("repeat 2\n    comm receive", "repeat 1\n    comm receive")))  # fmt: skip
    assert "rank 3" in fewer
    assert "push.0" in fewer
    more = message_of(parse_program(text.replace("repeat 2\n    comm receive", "repeat 3\n    comm receive")))  # fmt: skip
    assert "rank 0" in more


def test_answer_to_a_sender_that_was_not_received_is_caught() -> None:
    message = message_of(edited(ASYNC, "to=sender(push)", "to=sender(pusher)"))
    assert "rank 0 answers the sender of pusher, which it has not received" in message
    assert marks(message)[0, "comm"] == "send pull"


def test_answer_before_the_message_is_caught() -> None:
    answer = "comm send grad[0:4] to=sender(take) tag=1 id=give"
    receive = "comm receive grad[0:4] from=any tag=2 id=take"
    message = message_of(two_ranks(f"{answer}\n{receive}", "comm mark idle"))
    assert "rank 0 answers the sender of take, which it has not received" in message


@pytest.mark.parametrize(
    ("op", "used"),
    [
        ("comm send grad[2:7] to=dp+1 tag=1 id=give", "grad[2:7]"),
        ("comm accumulate grad[2:6] += grad[3:7]", "grad[3:7]"),
        ("comm scale grad[1:6] by=1/2", "grad[1:6]"),
        ("comm grant grad[6:7]", "grad[6:7]"),
        ("compute update layer=0 mb=0 shape=0x0x2 flops=4 nbytes=48 part=grad[5:7]", "grad[5:7]"),
    ],
)
def test_part_outside_what_the_role_holds_is_caught(op: str, used: str) -> None:
    program = two_ranks("comm mark idle", f"comm mark first\n{op}")
    holding = parse_program(format_program(program).replace("samples=1 nbytes", "samples=1 holds=grad[2:6] nbytes"))  # fmt: skip
    assert "holds=grad[2:6]" in format_program(holding)
    message = message_of(holding)
    assert f"rank 1 uses {used}, but holds grad[2:6]" in message
    assert (1, "compute" if op.startswith("compute") else "comm") in marks(message)


def test_server_that_touches_another_server_s_piece_is_caught() -> None:
    program = planned(Strategy.SERVER, 4, servers=2)
    message = message_of(edited(program, "part=param[4:8]", "part=param[3:8]"))
    assert "rank 1 uses param[3:8], but holds param[4:8]" in message


def test_lock_that_is_never_released_is_caught() -> None:
    message = message_of(edited(LOCK, "  compute release param\n", "", count=2))
    assert "waits for lock param of rank 0" in message
    assert "acquire" in marks(message).values()


def test_lock_that_nobody_waits_for_must_be_released_too() -> None:
    message = message_of(two_ranks("compute acquire param", "comm mark idle"))
    assert message.startswith("rank 0 never releases param\n")


def test_lock_is_not_taken_twice() -> None:
    message = message_of(
        two_ranks("compute acquire param\ncompute acquire param", "comm mark idle")
    )
    assert "rank 0 waits for lock param of rank 0" in message


def test_lock_of_another_is_not_released() -> None:
    message = message_of(two_ranks("compute acquire param", "compute release param"))
    assert "rank 1 releases param, which it does not hold" in message
    message = message_of(two_ranks("compute release param", "comm mark idle"))
    assert "rank 0 releases param, which it does not hold" in message


def test_locks_in_crossed_order_are_caught() -> None:
    # Each holds one lock until it has heard of the other, which waits for that lock.
    def ops(name: str, other: str, to: str) -> str:
        return "\n".join([
            f"compute acquire {name}",
            "compute update layer=0 mb=0 shape=0x0x1 flops=2 nbytes=24",
            "comm wait update.0.0",
            f"comm send grad[0:1] to={to} tag=1 id=give",
            f"comm receive grad[1:2] from={to} tag=1 id=take",
            "comm wait give",
            "compute wait take",
            f"compute acquire {other}",
            f"compute release {other}",
            f"compute release {name}",
        ])  # fmt: skip

    message = message_of(two_ranks(ops("a", "b", "dp+1"), ops("b", "a", "dp-1")))
    assert "rank 0 waits for lock b of rank 1" in message
    assert "rank 1 waits for lock a of rank 0" in message


SCHEMES = [
    planned(Strategy.AVERAGING), planned(Strategy.MASTER_ROUND_TRIP), planned(Strategy.MASTER_BROADCAST),
    SERVER, planned(Strategy.SERVER, 4, servers=2), planned(Strategy.SHARED_WINDOWS), ASYNC,
    planned(Strategy.ASYNC_SERVER, 4, servers=2),
]  # fmt: skip
MOVES = [
    (i, line)
    for i, program in enumerate(SCHEMES)
    for line, text in enumerate(format_program(program).splitlines())
    if re.match(r" +comm (send|receive|reduce|broadcast|allreduce) ", text)
]


@pytest.mark.parametrize(("scheme", "line"), MOVES)
def test_any_one_message_op_left_out_of_a_scheme_is_caught(scheme: int, line: int) -> None:
    lines = format_program(SCHEMES[scheme]).splitlines()
    lost = lines.pop(line)
    message = message_of(parse_program("\n".join(lines)))
    assert re.search(r"\brank \d+", message), lost
    assert re.search(r"^rank \d+ +comm +\|", message, re.MULTILINE), lost
