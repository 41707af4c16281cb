"""Laws of a collective's traffic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.program.ops import CollectiveKind
from exec.program.traffic import collective_nbytes

# What all ranks together must at least send, in units of (p - 1) n: what those who lack something
# must receive; an all-reduce is a reduce_scatter and an allgather.
TOTALS = {
    CollectiveKind.ALLREDUCE: 2,
    CollectiveKind.ALLGATHER: 1,
    CollectiveKind.REDUCE_SCATTER: 1,
    CollectiveKind.BROADCAST: 1,
    CollectiveKind.REDUCE: 1,
    CollectiveKind.BARRIER: 0,
}


@given(st.sampled_from(CollectiveKind), st.integers(0, 10**9), st.integers(1, 1000))
def test_ranks_together_send_what_must_be_received(
    kind: CollectiveKind, nbytes: int, ranks: int
) -> None:
    others = collective_nbytes(kind, nbytes, ranks, is_root=False)
    total = collective_nbytes(kind, nbytes, ranks, is_root=True) + (ranks - 1) * others
    needed = TOTALS[kind] * (ranks - 1) * nbytes
    assert needed <= total < needed + ranks  # each rank's is rounded up to a whole byte


@given(st.sampled_from(CollectiveKind), st.integers(0, 10**9), st.booleans())
def test_lone_rank_sends_nothing(kind: CollectiveKind, nbytes: int, is_root: bool) -> None:
    assert collective_nbytes(kind, nbytes, 1, is_root) == 0


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 64])
def test_ring_allreduce_is_optimal(ranks: int) -> None:
    # 2 (p - 1) steps of one p-th each (Patarasuk and Yuan 2009, theorem 1).
    chunk = 12
    found = collective_nbytes(CollectiveKind.ALLREDUCE, chunk * ranks, ranks, is_root=False)
    assert found == 2 * (ranks - 1) * chunk


@pytest.mark.parametrize("kind", CollectiveKind)
def test_root_matters_only_where_there_is_one(kind: CollectiveKind) -> None:
    root, other = (collective_nbytes(kind, 60, 4, is_root) for is_root in (True, False))
    assert (root != other) == (kind in {CollectiveKind.BROADCAST, CollectiveKind.REDUCE})
