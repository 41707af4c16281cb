"""Laws of the mesh: one rank, one place."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.program.mesh import Axis, Mesh

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100)
SIZES = st.integers(1, 6)
MESHES = st.builds(Mesh, SIZES, SIZES, SIZES)


@SETTINGS
@given(MESHES)
def test_coordinates_name_the_rank(mesh: Mesh) -> None:
    for rank in range(mesh.world_size):
        dp_rank, stage, tp_rank = mesh.coordinates(rank)
        assert 0 <= dp_rank < mesh.dp
        assert 0 <= stage < mesh.pp
        assert 0 <= tp_rank < mesh.tp
        assert (dp_rank * mesh.pp + stage) * mesh.tp + tp_rank == rank
        assert tuple(mesh.coordinate(rank, axis) for axis in Axis) == mesh.coordinates(rank)


@SETTINGS
@given(MESHES, st.sampled_from(Axis))
def test_groups_of_an_axis_partition_the_ranks(mesh: Mesh, axis: Axis) -> None:
    groups = {mesh.group(rank, axis) for rank in range(mesh.world_size)}
    assert sorted(rank for group in groups for rank in group) == list(range(mesh.world_size))
    assert {len(group) for group in groups} == {mesh.size(axis)}


@SETTINGS
@given(MESHES, st.sampled_from(Axis), st.data())
def test_moved_changes_one_coordinate_only(mesh: Mesh, axis: Axis, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, mesh.world_size - 1))
    coordinate = data.draw(st.integers(0, mesh.size(axis) - 1))
    moved = mesh.moved(rank, axis, coordinate)
    assert mesh.coordinate(moved, axis) == coordinate
    for other in set(Axis) - {axis}:
        assert mesh.coordinate(moved, other) == mesh.coordinate(rank, other)
    assert mesh.moved(moved, axis, mesh.coordinate(rank, axis)) == rank


@SETTINGS
@given(MESHES, st.sampled_from(Axis))
def test_stride_is_the_distance_between_neighbours(mesh: Mesh, axis: Axis) -> None:
    group = mesh.group(0, axis)
    assert all(b - a == mesh.stride(axis) for a, b in pairwise(group))


@pytest.mark.parametrize("axis", Axis)
def test_size_below_one_is_refused(axis: Axis) -> None:
    with pytest.raises(ValueError, match=f"{axis} must be at least 1, got 0"):
        Mesh(**{axis.value: 0})
