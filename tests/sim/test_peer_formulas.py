"""Formulas give what resolving each op for each rank and iteration does."""

from hypothesis import given, settings
from hypothesis import strategies as st

from exec.program.mesh import Axis, Mesh
from exec.program.peers import (
    Anchor,
    At,
    Chunks,
    Part,
    Rank,
    Shift,
    Xor,
    resolve_part,
    resolve_peer,
)
from sim.peer_formulas import moves, peer_of, size_of

SETTINGS = settings(derandomize=True, deadline=None, max_examples=200)
MESHES = [Mesh(8), Mesh(4, 2), Mesh(4, 4, 4), Mesh(2, 8, 4)]


@st.composite
def anchors(draw: st.DrawFn, mesh: Mesh) -> Anchor:
    axis = draw(st.sampled_from([axis for axis in Axis if mesh.size(axis) > 1]))
    if draw(st.booleans()):
        return Xor(axis, draw(st.sampled_from([1, mesh.size(axis) // 2])))
    block = draw(st.sampled_from([0, 2, mesh.size(axis)]))
    return Shift(axis, draw(st.integers(-9, 9)), draw(st.integers(-1, 1)), block)


@SETTINGS
@given(data=st.data(), mesh=st.sampled_from(MESHES), k=st.integers(0, 9))
def test_a_formula_names_the_peer_that_resolving_does(
    data: st.DataObject, mesh: Mesh, k: int
) -> None:
    peer = data.draw(anchors(mesh) | st.sampled_from([At(Axis.DP, 1), Rank(1)]))
    formula = peer_of(peer, mesh)
    for rank in range(mesh.world_size):
        assert Rank(formula(rank, k)) == resolve_peer(peer, rank, mesh, k)
        assert moves(peer) or formula(rank, k) == formula(rank, 0)


@SETTINGS
@given(data=st.data(), mesh=st.sampled_from(MESHES), k=st.integers(0, 9))
def test_a_formula_gives_the_size_that_resolving_does(
    data: st.DataObject, mesh: Mesh, k: int
) -> None:
    anchor = data.draw(anchors(mesh))
    count = mesh.size(anchor.axis)
    width, node_size = data.draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]))
    chunks = Chunks(count, anchor, width, node_size)
    unit, units = data.draw(st.sampled_from([1, 3])), data.draw(st.integers(0, 50))
    part = Part("grad", 5, 5 + unit * units, unit, data.draw(st.sampled_from([chunks, None])))
    found = size_of(part, mesh, 4)
    for rank in range(mesh.world_size):
        nbytes = found if isinstance(found, int) else found(rank, k)
        assert nbytes == 4 * resolve_part(part, rank, mesh, k).size
