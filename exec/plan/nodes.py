"""Nodes: how the ranks of a group lie over them, which a hierarchical all-reduce must know.

Ranks fill the nodes in order, ``ranks_per_node`` on each, as a launcher places them by default.
"""

from exec.errors import UsageError
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm

REDUCED_AXES = (Axis.DP, Axis.TP)
"""The axes along which a step all-reduces."""


def node_size(mesh: Mesh, axis: Axis, ranks_per_node: int) -> int:
    """Return how many ranks in a row of each group along ``axis`` are of one node.

    Raises:
        UsageError: it is not the same number all along the group.

    >>> node_size(Mesh(dp=6, tp=2), Axis.DP, ranks_per_node=4)
    2
    """
    size, stride = mesh.size(axis), mesh.stride(axis)
    if mesh.world_size <= ranks_per_node:
        return size
    if stride >= ranks_per_node:  # neighbours along the axis are a node apart, at least
        return 1
    together = ranks_per_node // stride
    is_even = size % together == 0 or together % size == 0
    if size > 1 and (ranks_per_node % stride or not is_even):
        raise UsageError(
            f"ranks-per-node must put equally many ranks of a {axis} group on each of its nodes for "
            f"algorithm hierarchical, got {ranks_per_node} for dp x pp x tp = {mesh}; use another "
            f"number or mesh, or --algorithm ring"
        )
    return min(size, together)


def check_nodes(mesh: Mesh, ranks_per_node: int) -> None:
    """Raise :class:`UsageError` unless every group lies evenly over the nodes."""
    for axis in REDUCED_AXES:
        node_size(mesh, axis, ranks_per_node)


def is_two_level(mesh: Mesh, ranks_per_node: int) -> bool:
    """Say whether some group has several ranks on a node, and several nodes."""
    return any(1 < node_size(mesh, axis, ranks_per_node) < mesh.size(axis) for axis in REDUCED_AXES)


def without_effect(mesh: Mesh, algorithm: Algorithm, ranks_per_node: int, *, is_given: bool) -> str:
    """Return why ``ranks_per_node`` makes no difference to a step, or nothing if it does."""
    if algorithm is not Algorithm.HIERARCHICAL:
        return f"note: ranks-per-node changes nothing for algorithm {algorithm}" * is_given
    if not is_two_level(mesh, ranks_per_node):
        return (
            f"note: algorithm hierarchical is the ring here: with {ranks_per_node} ranks on a node no "
            f"group has several ranks on each of several nodes"
        )
    return ""
