"""Placement: how many ranks share a node, as the user says or as the wire tells."""

import socket
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.plan.nodes import check_nodes
from exec.plan.window import check_window, uses_window
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
    ``chooses`` the algorithm, replicas that can share a window do.

    Raises:
        UsageError: the algorithm does not fit the nodes that ranks are on.
    """
    if chooses:
        window = replace(plan, options=replace(plan.options, algorithm=Algorithm.SHARED_WINDOW))
        return window if _can_share(window, ranks_per_node, transport) else plan
    mesh, options = plan.mesh, plan.options
    if uses_window(mesh, options):
        number = mesh.world_size if ranks_per_node is None else ranks_per_node
        together(transport, lambda: check_window(mesh, options, number))
        return plan
    if options.algorithm is not Algorithm.HIERARCHICAL:
        return plan
    names = transport.gather_objects(socket.gethostname())

    def check() -> int:
        number = ranks_in_a_row(names) if ranks_per_node is None else ranks_per_node
        check_nodes(mesh, number)
        return number

    number = together(transport, check)
    return replace(plan, options=replace(options, ranks_per_node=number))


def _can_share(plan: TrainingPlan, ranks_per_node: int | None, transport: Transport) -> bool:
    """Say whether all replicas share memory that has room for their parameters and gradients.

    Where messages are to go on during compute, on devices, and where nodes are only said to be
    several, they do not.
    """
    mesh, options = plan.mesh, plan.options
    if not uses_window(mesh, options) or options.overlap or options.device is not DeviceKind.CPU:
        return False
    if ranks_per_node is not None and ranks_per_node < mesh.world_size:
        return False
    group = transport.split(mesh.group(transport.rank, Axis.DP)[0])
    least = min(transport.gather_objects(group.shareable_nbytes()))
    group.close()
    nbytes = plan.workload.num_parameters * plan.workload.itemsize
    return least > 2 * (1 + mesh.dp) * nbytes


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
