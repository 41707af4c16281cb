"""Laws of expansion: each algorithm's messages and bytes are the textbook's, and its sums are right.

Source: R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective communication operations
in MPICH", Int. J. High Perform. Comput. Appl. 19 (2005) 49-66, sections 4.1 and 4.5.
"""

from math import log2

import pytest

from exec.plan.collectives import EXPANDED, expand, scratch_elements
from exec.program.check import check_program
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Algorithm,
    Collective,
    CollectiveKind,
    Lane,
    Op,
    Receive,
    Send,
    Wait,
)
from exec.program.peers import Part, Rank
from exec.program.program import Program, Role

RANKS = range(1, 18)


def allreduce(
    p: int, algorithm: Algorithm, n: int, kind: CollectiveKind = CollectiveKind.ALLREDUCE
) -> Program:
    """Return the expanded all-reduce (or another ``kind``) of ``n`` elements over ``p`` ranks."""
    op = Collective("sum", kind, Part("grad", 0, n), Axis.DP, algorithm)
    ops = (op, Wait(Lane.COMPUTE, "sum"))
    return expand(Program(Mesh(dp=p), 4, (Role("all", range(p), range(1), range(1), ops),)))


def two_levels(nodes: int, node_size: int, n: int) -> Program:
    """Return the expanded hierarchical all-reduce of ``n`` elements over ``nodes`` of some ranks."""
    p = nodes * node_size
    op = Collective(
        "sum", CollectiveKind.ALLREDUCE, Part("grad", 0, n), Axis.DP, Algorithm.HIERARCHICAL,
        node_size=node_size,
    )  # fmt: skip
    ops = (op, Wait(Lane.COMPUTE, "sum"))
    return expand(Program(Mesh(dp=p), 4, (Role("all", range(p), range(1), range(1), ops),)))


def sent(program: Program, rank: int) -> list[int]:
    """Return the elements of each message that ``rank`` sends."""
    return [op.part.stop - op.part.start for op in program.ops(rank) if isinstance(op, Send)]


def largest_power(p: int) -> int:
    """Return the largest power of two that is at most ``p``."""
    return 1 << (p.bit_length() - 1)


@pytest.mark.parametrize("algorithm", EXPANDED)
@pytest.mark.parametrize("p", RANKS)
def test_roles_partition_the_ranks(p: int, algorithm: Algorithm) -> None:
    program = allreduce(p, algorithm, 20)
    played = [rank for role in program.roles for rank in program.ranks_of(role)]
    assert sorted(played) == list(range(p))
    check_program(program)


@pytest.mark.parametrize("p", RANKS)
def test_ring_sends_2_p_minus_1_chunks_from_each_rank(p: int) -> None:
    n = 10 * p  # divisible, so that every chunk is n / p
    program = allreduce(p, Algorithm.RING, n)
    assert all(sent(program, rank) == [n // p] * (2 * (p - 1)) for rank in range(p))


@pytest.mark.parametrize("p", RANKS)
@pytest.mark.parametrize("n", [0, 1, 13, 100])
def test_ring_moves_2_p_minus_1_n_elements_however_they_divide(p: int, n: int) -> None:
    program = allreduce(p, Algorithm.RING, n)
    assert sum(sum(sent(program, rank)) for rank in range(p)) == 2 * (p - 1) * n


@pytest.mark.parametrize("p", RANKS)
def test_recursive_doubling_sends_everything_log2_p_times(p: int) -> None:
    # Ranks beyond the largest power of two q fold in (one message) and are handed the sum (one).
    program, n, q = allreduce(p, Algorithm.RECURSIVE_DOUBLING, 20), 20, largest_power(p)
    for rank in range(p):
        steps = int(log2(q)) if rank < q else 0
        folds = 1 if rank >= q or rank < p - q else 0
        assert sent(program, rank) == [n] * (steps + folds)


@pytest.mark.parametrize("p", RANKS)
def test_halving_doubling_sends_log2_p_messages_each_way_of_n_minus_n_over_p(p: int) -> None:
    q = largest_power(p)
    n = 3 * q
    program = allreduce(p, Algorithm.HALVING_DOUBLING, n)
    halves = [n >> (i + 1) for i in range(int(log2(q)))]
    assert sum(halves) == n - n // q
    for rank in range(p):
        core = [*halves, *reversed(halves)] if rank < q else []
        folds = [n] if rank >= q or rank < p - q else []
        assert sent(program, rank) == core + folds


@pytest.mark.parametrize("p", RANKS)
def test_binomial_tree_moves_every_buffer_up_and_down_once(p: int) -> None:
    program, n = allreduce(p, Algorithm.BINOMIAL_TREE, 20), 20
    counts = [len(sent(program, rank)) for rank in range(p)]
    # An edge of the tree for each rank but the root, used once each way.
    assert sum(counts) == 2 * (p - 1)
    assert all(size == n for rank in range(p) for size in sent(program, rank))
    # The root sends down ceil(log2 p) times.
    assert counts[0] == (p - 1).bit_length()
    assert all(count >= 1 for count in counts[1:])


NODES, NODE_SIZES = range(1, 7), range(1, 5)


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("node_size", NODE_SIZES)
def test_hierarchical_sends_shares_in_the_node_and_parts_of_them_between_nodes(
    nodes: int, node_size: int
) -> None:
    part = 3
    share = part * nodes
    program = two_levels(nodes, node_size, share * node_size)
    assert len(program.roles) == 1
    between = [part] * (2 * (nodes - 1))
    inside = [share] * (node_size - 1)
    for rank in range(nodes * node_size):
        # A share in the node is sent g - 1 times before and after; of one node, it is the ring.
        assert sent(program, rank) == [*inside, *between, *inside]
        others = {op.peer.rank for op in program.ops(rank) if isinstance(op, Send) and op.part.stop}
        node, place = divmod(rank, node_size)
        around = {node * node_size + (place + 1) % node_size} - {rank}
        assert others == around | {(rank + node_size) % (nodes * node_size)} - {rank}


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("node_size", NODE_SIZES)
@pytest.mark.parametrize("n", [0, 1, 5, 37])
def test_hierarchical_adds_every_rank_exactly_once_however_the_parts_divide(
    nodes: int, node_size: int, n: int
) -> None:
    # Up to 24 ranks add to a number whose base-32 digits count how often each was added.
    program, p = two_levels(nodes, node_size, n), nodes * node_size
    check_program(program)
    buffers = play(program, [[32**rank] * n for rank in range(p)])
    assert buffers == [[sum(32**rank for rank in range(p))] * n] * p


@pytest.mark.parametrize("p", RANKS)
@pytest.mark.parametrize("algorithm", EXPANDED)
def test_allgather_is_a_ring_of_p_minus_1_steps(p: int, algorithm: Algorithm) -> None:
    n = 4 * p
    program = allreduce(p, algorithm, n, CollectiveKind.ALLGATHER)
    assert all(sent(program, rank) == [4] * (p - 1) for rank in range(p))
    check_program(program)


@pytest.mark.parametrize("algorithm", EXPANDED)
@pytest.mark.parametrize("p", RANKS)
@pytest.mark.parametrize("n", [1, 16, 37])
def test_every_rank_ends_with_every_rank_added_exactly_once(
    p: int, algorithm: Algorithm, n: int
) -> None:
    # Rank r brings 32^r everywhere; p <= 17 of them add to a number whose base-32 digits count how
    # often each rank was added. Python's integers are exact.
    program = allreduce(p, algorithm, n)
    buffers = play(program, [[32**rank] * n for rank in range(p)])
    assert all(each == [sum(32**rank for rank in range(p))] * n for each in buffers)


@pytest.mark.parametrize("p", RANKS)
@pytest.mark.parametrize("n", [1, 37])
def test_allgather_gives_every_rank_every_share(p: int, n: int) -> None:
    program = allreduce(p, Algorithm.RING, n, CollectiveKind.ALLGATHER)
    stops = [(rank + 1) * (n // p) + min(rank + 1, n % p) for rank in range(p)]
    whole = [next(rank for rank in range(p) if i < stops[rank]) for i in range(n)]
    brought = [[owner if owner == rank else -1 for owner in whole] for rank in range(p)]
    assert play(program, brought) == [whole] * p


def test_kind_that_does_not_expand_is_refused() -> None:
    with pytest.raises(ValueError, match="only allreduce and allgather expand, got broadcast"):
        allreduce(4, Algorithm.RING, 4, CollectiveKind.BROADCAST)


@pytest.mark.parametrize("algorithm", EXPANDED)
def test_two_collectives_have_two_tags(algorithm: Algorithm) -> None:
    ops = tuple(
        Collective(f"sum{i}", CollectiveKind.ALLREDUCE, Part("grad", 0, 9), Axis.DP, algorithm)
        for i in range(2)
    )
    program = expand(Program(Mesh(dp=3), 4, (Role("all", range(3), range(1), range(1), ops),)))
    tags = [
        {
            op.tag
            for op in program.ops(0)
            if isinstance(op, Send | Receive) and op.id.startswith(f"sum{i}")
        }
        for i in range(2)
    ]
    assert [len(each) for each in tags] == [1, 1]
    assert tags[0] != tags[1]


def play(program: Program, grads: list[list[int]]) -> list[list[int]]:
    """Do the messages of ``program`` on lists of integers, and return every rank's ``grad``.

    A reader of its own: each rank goes on until it must receive what has not been sent.
    """
    buffers = [{"grad": grad, "scratch": [0] * scratch_elements(program)} for grad in grads]
    ops: list[list[Op]] = [list(program.ops(rank)) for rank in range(len(grads))]
    mail: dict[tuple[int, int], list[list[int]]] = {}
    while any(ops):
        before = sum(map(len, ops))
        for rank, queue in enumerate(ops):
            while queue and _do(rank, queue[0], buffers[rank], mail):
                queue.pop(0)
        assert sum(map(len, ops)) < before, "deadlock"
    return [each["grad"] for each in buffers]


def _do(
    rank: int, op: Op, buffers: dict[str, list[int]], mail: dict[tuple[int, int], list[list[int]]]
) -> bool:
    match op:
        case Send(_, part, Rank(to), _):
            mail.setdefault((rank, to), []).append(buffers[part.buffer][part.start : part.stop])
        case Receive(_, part, Rank(source), _):
            if not mail.get((source, rank)):
                return False
            message = mail[source, rank].pop(0)
            assert len(message) == part.stop - part.start
            buffers[part.buffer][part.start : part.stop] = message
        case Accumulate(into, source_part):
            addend = buffers[source_part.buffer][source_part.start : source_part.stop]
            assert len(addend) == into.stop - into.start
            for i, value in enumerate(addend, into.start):
                buffers[into.buffer][i] += value
        case _:
            pass
    return True
