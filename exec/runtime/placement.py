"""Placement: how many ranks share a node, as the user says or as the wire tells."""

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from exec.errors import UsageError
from exec.plan.nodes import check_nodes
from exec.plan.window import (
    check_window,
    chosen_algorithm,
    nodes_note,
    uses_window,
    window_size,
)
from exec.program.mesh import Axis
from exec.program.ops import Algorithm
from exec.runtime.job import together
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport


def placed(
    plan: TrainingPlan, ranks_per_node: int | None, transport: Transport, *, chooses: bool = False
) -> TrainingPlan:
    """Return ``plan`` with what it must know of nodes; all ranks must call it together.

    Ranks that are threads are all of one node, unless ``ranks_per_node`` is given. If it
    ``chooses`` the algorithm, replicas that can share a window do. Those of algorithm hierarchical
    share one on each node where its memory can be shared and has room, else they send messages there.

    Raises:
        UsageError: the algorithm does not fit the nodes that ranks are on.
    """
    mesh, options = plan.mesh, plan.options
    on_node = mesh.world_size if ranks_per_node is None else ranks_per_node
    if chooses:
        chosen = replace(options, algorithm=chosen_algorithm(mesh, options, on_node))
        has_room = uses_window(mesh, chosen) and _has_room(plan, mesh.dp, transport)
        return replace(plan, options=chosen) if has_room else plan
    if uses_window(mesh, options):
        together(transport, lambda: check_window(mesh, options, on_node))
        return plan
    if options.algorithm is not Algorithm.HIERARCHICAL:
        return plan
    names = transport.gather_objects(socket.gethostname())

    def check() -> int:
        number = ranks_in_a_row(names) if ranks_per_node is None else ranks_per_node
        check_nodes(mesh, number)
        return number

    options = replace(options, ranks_per_node=together(transport, check))
    sharers = window_size(mesh, options)
    if sharers > 1 and not _has_room(plan, sharers, transport):
        options = replace(options, shares_memory=False)
    return replace(plan, options=options)


def placement_note(plan: TrainingPlan, *, is_given: bool) -> str:
    """Return what the user may wonder about in a ``plan`` that is placed, or nothing.

    ``ranks_per_node`` may have been given.
    """
    mesh, options = plan.mesh, plan.options
    found = nodes_note(mesh, options, options.ranks_per_node, is_given=is_given)
    if found or options.shares_memory:
        return found
    return (
        "note: the ranks of a node have no memory in common, or too little room there for their "
        "gradients, so they send messages inside nodes too"
    )


def _has_room(plan: TrainingPlan, sharers: int, transport: Transport) -> bool:
    """Say whether every ``sharers`` replicas share memory with room for their parameters and gradients.

    What is free is counted on each host, so it must hold the windows of all ranks there, twice.
    """
    mesh, workload = plan.mesh, plan.workload
    hosts = Counter(transport.gather_objects(socket.gethostname()))
    group = transport.split(mesh.group(transport.rank, Axis.DP, sharers)[0])
    least = min(transport.gather_objects(group.shareable_nbytes()))
    group.close()
    most = max(hosts.values())
    arrays = -(-(most + -(-most // sharers)) // (mesh.pp * mesh.tp))
    return least > 2 * arrays * workload.num_parameters * workload.itemsize


def ranks_in_a_row(names: Sequence[str]) -> int:
    """Return how many ranks a node has, from the ``names`` of all ranks' nodes.

    The last node may have fewer.

    Raises:
        UsageError: nodes differ, or the ranks of a node do not follow each other.

    >>> ranks_in_a_row(["a", "a", "b", "b"])
    2
    """
    counts = [len(list(ranks)) for _, ranks in groupby(names)]
    is_even = set(counts[:-1]) <= {counts[0]} and counts[-1] <= counts[0]
    if not is_even or len(set(names)) != len(counts):
        raise UsageError(
            f"ranks must fill one node after the other, equally many on each, for algorithm "
            f"hierarchical, got {counts} in a row; change how the launcher places them, or give "
            f"--ranks-per-node"
        )
    return counts[0]
