"""Laws of nodes: how many ranks of a group share one, against counting them."""

from collections import Counter

import pytest

from exec.errors import UsageError
from exec.plan.nodes import check_nodes, is_two_level, node_size, without_effect
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm
from tests.exec.random_plans import factorisations

MESHES = [mesh for ranks in range(1, 25) for mesh in factorisations(ranks)]


def counted(mesh: Mesh, axis: Axis, ranks_per_node: int) -> set[int]:
    """Return how many ranks of a group along ``axis`` share a node: each number that occurs."""
    found: set[int] = set()
    for rank in range(mesh.world_size):
        nodes = [member // ranks_per_node for member in mesh.group(rank, axis)]
        assert nodes == sorted(nodes)  # so that the ranks of a node follow each other
        found.update(Counter(nodes).values())
    return found


@pytest.mark.parametrize("ranks_per_node", range(1, 13))
def test_node_size_is_what_counting_finds_or_counting_finds_several(ranks_per_node: int) -> None:
    for mesh in MESHES:
        for axis in Axis:
            sizes = counted(mesh, axis, ranks_per_node)
            try:
                assert {node_size(mesh, axis, ranks_per_node)} == sizes, (mesh, axis)
            except UsageError:
                assert len(sizes) > 1, (mesh, axis)


def test_uneven_nodes_are_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"ranks-per-node must put equally many ranks of a dp group .* got 4 for dp x pp x tp = 6x1x1; use another number or mesh, or --algorithm ring"):  # fmt: skip
        check_nodes(Mesh(6), 4)
    with pytest.raises(UsageError, match="of a tp group"):
        check_nodes(Mesh(2, 1, 3), 2)
    check_nodes(Mesh(2, 3, 1), 2)  # stages are not reduced over


@pytest.mark.parametrize("mesh, ranks_per_node, expected", [
    (Mesh(4), 2, True), (Mesh(4), 1, False), (Mesh(4), 4, False), (Mesh(4), 64, False),
    (Mesh(4, 1, 2), 2, False), (Mesh(4, 1, 2), 4, True), (Mesh(1, 1, 4), 2, True), (Mesh(1, 4, 1), 2, False),
])  # fmt: skip
def test_two_levels_are_several_ranks_on_several_nodes(
    mesh: Mesh, ranks_per_node: int, expected: bool
) -> None:
    assert is_two_level(mesh, ranks_per_node) is expected
    for is_given in (False, True):
        note = without_effect(mesh, Algorithm.HIERARCHICAL, ranks_per_node, is_given=is_given)
        assert ("is the ring here" in note) is not expected


def test_a_number_that_no_algorithm_asks_for_is_reported_if_it_was_given() -> None:
    notes = [without_effect(Mesh(4), Algorithm.RING, 2, is_given=given) for given in (False, True)]
    assert notes == ["", "note: ranks-per-node changes nothing for algorithm ring"]
