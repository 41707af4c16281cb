"""Laws of the text form: what is printed parses back, and a line that is no op is named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import IllegalProgramError
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Algorithm,
    Collective,
    CollectiveKind,
    Compute,
    Kernel,
    Lane,
    Mark,
    Op,
    Receive,
    Repeat,
    Send,
    Shape,
    Wait,
)
from exec.program.parse import parse_program
from exec.program.peers import AnyRank, At, Chunks, Part, Peer, Rank, Shift, Xor
from exec.program.program import Program, Role
from exec.program.text import format_program
from tests.exec.random_plans import Case, all_cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)

COUNTS = st.integers(0, 10**12)
SMALL = st.integers(1, 64)
IDS = st.from_regex(r"[a-z][a-z0-9_.]{0,11}", fullmatch=True)
AXES = st.sampled_from(Axis)
SHIFTS = st.builds(Shift, AXES, st.integers(-9, 9), st.integers(-2, 2), st.integers(0, 9))
ANCHORS = st.one_of(SHIFTS, st.builds(Xor, AXES, SMALL))
PEERS: st.SearchStrategy[Peer] = st.one_of(
    ANCHORS, st.builds(At, AXES, COUNTS), st.just(AnyRank()), st.builds(Rank, COUNTS)
)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    """Draw a part, whole or a chunk."""
    start, units, unit = draw(COUNTS), draw(st.integers(0, 99)), draw(SMALL)
    nodes, node_size = draw(SMALL), draw(st.integers(1, 4))
    count = nodes * node_size
    chunks = st.builds(
        Chunks, st.just(count), ANCHORS, st.integers(1, count), st.just(node_size)
    )  # fmt: skip
    return Part(draw(IDS), start, start + units * unit, unit, draw(st.none() | chunks))


COMM_OPS: st.SearchStrategy[Op] = st.one_of(
    st.builds(Send, IDS, parts(), PEERS, COUNTS),
    st.builds(Receive, IDS, parts(), PEERS, COUNTS),
    st.builds(Accumulate, parts(), parts()),
    st.builds(Collective, IDS, st.sampled_from(CollectiveKind), parts(), AXES,
              st.sampled_from(Algorithm), COUNTS, SMALL),
    st.builds(Mark, IDS),
    st.builds(Wait, st.just(Lane.COMM), IDS),
)  # fmt: skip
OPS: st.SearchStrategy[Op] = st.one_of(
    COMM_OPS,
    st.builds(Compute, st.sampled_from(Kernel), st.integers(-1, 99), COUNTS,
              st.builds(Shape, COUNTS, COUNTS, COUNTS), COUNTS, COUNTS),
    st.builds(Wait, st.just(Lane.COMPUTE), IDS),
    st.builds(Repeat, COUNTS, st.lists(COMM_OPS, max_size=4).map(tuple)),
)  # fmt: skip
SPANS = st.builds(range, st.integers(0, 9), st.integers(10, 99), st.integers(1, 4))
ROLES = st.builds(
    Role, IDS, SPANS, SPANS, SPANS, st.lists(OPS, max_size=8).map(tuple), SMALL, COUNTS
)
PROGRAMS = st.builds(
    Program, st.builds(Mesh, SMALL, SMALL, SMALL), st.sampled_from([4, 8]),
    st.lists(ROLES, max_size=3).map(tuple),
)  # fmt: skip


@SETTINGS
@given(all_cases())
def test_planned_and_expanded_programs_parse_back(case: Case) -> None:
    for program in (case.program, case.expanded):
        assert parse_program(format_program(program)) == program


@settings(SETTINGS, max_examples=60)
@given(PROGRAMS)
def test_every_program_there_could_be_parses_back(program: Program) -> None:
    assert parse_program(format_program(program)) == program


@SETTINGS
@given(PROGRAMS, st.data())
def test_spoilt_line_is_named_or_is_another_program(program: Program, data: st.DataObject) -> None:
    # A character lost, doubled or replaced in one line: an error that names a line of the text, or
    # a line that still is an op. Never another exception.
    lines = format_program(program).splitlines()
    i = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.integers(0, len(lines[i]) - 1))
    put = data.draw(st.sampled_from(["", lines[i][at] * 2, "x", "0", "-", " ", "@", "٣"]))
    lines[i] = lines[i][:at] + put + lines[i][at + 1 :]
    try:
        problem = "line " * isinstance(parse_program("\n".join(lines)), Program)
    except IllegalProgramError as error:
        problem = str(error)
    assert problem.startswith("line ")


HEAD = "program mesh=2x1x1 itemsize=4"
ROLE = "role all dp=0:2 pp=0 tp=0 slots=1 nbytes=0"
PART = "grad[0:4]"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (1, ""),
        (1, "programme mesh=2x1x1 itemsize=4"),
        (1, "program mesh=2x1 itemsize=4"),
        (1, "program mesh=0x1x1 itemsize=4"),
        (1, "program mesh=2x1x1 itemsize=0"),
        (2, f"{HEAD}\ncomm mark a"),
        (2, f"{HEAD}\nrole all dp=0:2 pp=0 slots=1 nbytes=0"),
        (2, f"{HEAD}\nrole all dp=0:2:0 pp=0 tp=0 slots=1 nbytes=0"),
        (2, f"{HEAD}\nrole all dp=a pp=0 tp=0 slots=1 nbytes=0"),
        *(
            (3, f"{HEAD}\n{ROLE}\n{op}")
            for op in (
                "comm",
                "comm mark",
                "comm mark a b",
                "comm mark a-b",
                "comm end",
                "comm repeat 3",
                "comm repeat -1",
                "compute mark a",
                "compute load layer=0 mb=0 shape=1x2 flops=0 nbytes=0",
                "compute lode layer=0 mb=0 shape=1x2x3 flops=0 nbytes=0",
                "compute load layer=0 mb=0 shape=1x2x3 flops=1.5 nbytes=0",
                f"comm send {PART} tag=1 id=a",
                f"comm send {PART} to=dq+1 tag=1 id=a",
                f"comm send {PART} to=dp+ tag=1 id=a",
                f"comm send {PART} from=dp+1 tag=1 id=a",
                f"comm send {PART} to=dp+1 tag=-1 id=a",
                "comm send grad[4:0] to=dp+1 tag=1 id=a",
                "comm send grad[0:4:3] to=dp+1 tag=1 id=a",
                "comm send grad[0:4:0] to=dp+1 tag=1 id=a",
                "comm send grad[0:4]/0@dp+1 to=dp+1 tag=1 id=a",
                "comm send grad[0:4]/2@dp+1*0 to=dp+1 tag=1 id=a",
                "comm send grad[0:4]/2@dp+1*3 to=dp+1 tag=1 id=a",
                "comm send grad[0:4]/2@any to=dp+1 tag=1 id=a",
                "comm send grad[0:4 to=dp+1 tag=1 id=a",
                f"comm accumulate {PART} = {PART}",
                f"comm allreduce {PART} axis=xp algorithm=ring root=0 id=a",
                f"comm allreduce {PART} axis=dp algorithm=rang root=0 id=a",
                f"comm allredoce {PART} axis=dp algorithm=ring root=0 id=a",
            )
        ),
        (4, f"{HEAD}\n{ROLE}\n\ncomm"),
        (4, f"{HEAD}\n{ROLE}\ncomm repeat 2\ncomm repeat 2\ncomm end\ncomm end"),
        (4, f"{HEAD}\n{ROLE}\ncomm repeat 2\ncompute wait a\ncomm end"),
    ],
)
def test_line_that_is_no_op_is_named(line: int, text: str) -> None:
    with pytest.raises(IllegalProgramError, match=rf"^line {line}\b"):
        parse_program(text)
