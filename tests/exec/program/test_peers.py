"""Laws of symbolic peers and parts, and of splitting a range evenly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.program.mesh import Axis, Mesh
from exec.program.peers import (
    AnyRank,
    At,
    Chunks,
    Part,
    Rank,
    Shift,
    Xor,
    resolve_part,
    resolve_peer,
    split_size,
    split_start,
)

SETTINGS = settings(derandomize=True, deadline=None, max_examples=200)
TOTALS, PARTS = st.integers(0, 200), st.integers(1, 40)


@SETTINGS
@given(TOTALS, PARTS)
def test_split_covers_the_total_without_gap_or_overlap(total: int, parts: int) -> None:
    assert split_start(total, parts, 0) == 0
    assert split_start(total, parts, parts) == total
    for i in range(parts):
        assert split_start(total, parts, i + 1) - split_start(total, parts, i) == split_size(
            total, parts, i
        )


@SETTINGS
@given(TOTALS, PARTS)
def test_split_sizes_differ_by_at_most_one_and_fall(total: int, parts: int) -> None:
    sizes = [split_size(total, parts, i) for i in range(parts)]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@SETTINGS
@given(st.integers(1, 9), st.integers(-20, 20), st.integers(-3, 3), st.integers(0, 9))
def test_shift_goes_round_the_axis(size: int, offset: int, step: int, iteration: int) -> None:
    mesh = Mesh(pp=size, tp=2)
    peers = [
        resolve_peer(Shift(Axis.PP, offset, step), rank, mesh, iteration)
        for rank in range(mesh.world_size)
    ]
    # A shift is a permutation of the ranks that leaves the other coordinates alone.
    assert {peer.rank for peer in peers if isinstance(peer, Rank)} == set(range(mesh.world_size))
    for rank, peer in enumerate(peers):
        assert isinstance(peer, Rank)
        assert peer.rank % 2 == rank % 2
        assert (peer.rank // 2 - rank // 2 - offset - step * iteration) % size == 0


@SETTINGS
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(-20, 20), st.integers(-3, 3), st.integers(0, 9)
)  # fmt: skip
def test_shift_in_blocks_goes_round_each_block(
    block: int, count: int, offset: int, step: int, iteration: int
) -> None:
    mesh = Mesh(pp=block * count, tp=2)
    shift, alone = Shift(Axis.PP, offset, step, block), Mesh(pp=block, tp=2)
    for rank in range(mesh.world_size):
        # The rank of a mesh of one block, moved to where the block begins.
        first = rank // alone.world_size * alone.world_size
        inside = resolve_peer(Shift(Axis.PP, offset, step), rank - first, alone, iteration)
        assert isinstance(inside, Rank)
        assert resolve_peer(shift, rank, mesh, iteration) == Rank(first + inside.rank)


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_partner_of_the_partner_is_the_rank_itself(distance: int) -> None:
    mesh = Mesh(dp=8, pp=3)
    for rank in range(mesh.world_size):
        peer = resolve_peer(Xor(Axis.DP, distance), rank, mesh)
        assert isinstance(peer, Rank)
        assert peer.rank != rank
        assert resolve_peer(Xor(Axis.DP, distance), peer.rank, mesh) == Rank(rank)


def test_absolute_peer_keeps_the_other_coordinates() -> None:
    mesh = Mesh(2, 3, 2)
    assert [resolve_peer(At(Axis.PP, 2), rank, mesh) for rank in (0, 3, 7)] == [
        Rank(4),
        Rank(5),
        Rank(11),
    ]


def test_concrete_peers_resolve_to_themselves() -> None:
    for peer in (Rank(5), AnyRank()):
        assert resolve_peer(peer, 0, Mesh(dp=8)) == peer


@SETTINGS
@given(st.integers(1, 9), st.integers(0, 50), st.integers(1, 4), st.integers(0, 12))
def test_chunks_of_a_part_partition_it(size: int, units: int, unit: int, iteration: int) -> None:
    part = Part("grad", 7, 7 + units * unit, unit, Chunks(size, Shift(Axis.DP, 3, -1)))
    found = [resolve_part(part, rank, Mesh(dp=size), iteration) for rank in range(size)]
    elements = sorted(i for each in found for i in range(each.start, each.stop))
    assert elements == list(range(part.start, part.stop))
    assert all((each.start - part.start) % unit == 0 for each in found)
    sizes = [each.stop - each.start for each in found]
    assert max(sizes) - min(sizes) <= unit


@pytest.mark.parametrize("width", [1, 2, 4])
def test_block_of_chunks_is_the_one_that_holds_its_anchor(width: int) -> None:
    part = Part("grad", 0, 100, chunks=Chunks(8, Shift(Axis.DP, 0), width))
    for rank in range(8):
        found = resolve_part(part, rank, Mesh(dp=8))
        first = rank // width * width
        assert (found.start, found.stop) == (
            split_start(100, 8, first),
            split_start(100, 8, first + width),
        )


@pytest.mark.parametrize("node_size", [1, 2, 3, 6])
def test_chunks_of_nodes_put_those_of_first_ranks_first(node_size: int) -> None:
    # Of 6 ranks: all chunks of the first ranks of each node, then all of the second ones.
    order = [rank for place in range(node_size) for rank in range(place, 6, node_size)]
    part = Part("grad", 0, 20, chunks=Chunks(6, Shift(Axis.DP, 0), 1, node_size))
    found = [resolve_part(part, rank, Mesh(dp=6)) for rank in order]
    assert [(each.start, each.stop) for each in found] == [
        (split_start(20, 6, i), split_start(20, 6, i + 1)) for i in range(6)
    ]


@pytest.mark.parametrize(
    ("start", "stop", "unit", "message"),
    [
        (3, 2, 1, "part must have 0 <= start <= stop, got 3:2"),
        (-1, 2, 1, "part must have 0 <= start <= stop, got -1:2"),
        (0, 7, 2, "unit must divide the 7 elements of grad, got 2"),
        (0, 7, 0, "unit must divide the 7 elements of grad, got 0"),
    ],
)
def test_part_that_cannot_be_is_refused(start: int, stop: int, unit: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Part("grad", start, stop, unit)


@pytest.mark.parametrize(("count", "width"), [(0, 1), (4, 0), (4, 5)])
def test_chunks_that_cannot_be_are_refused(count: int, width: int) -> None:
    with pytest.raises(ValueError, match="chunks must have 1 <= width <= num_chunks"):
        Chunks(count, Shift(Axis.DP, 0), width)


@pytest.mark.parametrize("node_size", [0, 3, 8])
def test_nodes_that_do_not_divide_the_chunks_are_refused(node_size: int) -> None:
    with pytest.raises(ValueError, match="node_size must divide the 4 chunks, got"):
        Chunks(4, Shift(Axis.DP, 0), 1, node_size)
