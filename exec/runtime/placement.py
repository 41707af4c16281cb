"""Placement: how many ranks share a node, as the user says or as the wire tells."""

import socket
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from exec.errors import UsageError
from exec.plan.nodes import check_nodes
from exec.program.ops import Algorithm
from exec.runtime.job import together
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport


def placed(plan: TrainingPlan, ranks_per_node: int | None, transport: Transport) -> TrainingPlan:
    """Return ``plan`` with what it must know of nodes; all ranks must call it together.

    Ranks that are threads are all of one node, unless ``ranks_per_node`` is given.
    """
    if plan.options.algorithm is not Algorithm.HIERARCHICAL:
        return plan
    names = transport.gather_objects(socket.gethostname())

    def check() -> int:
        number = ranks_in_a_row(names) if ranks_per_node is None else ranks_per_node
        check_nodes(plan.mesh, number)
        return number

    number = together(transport, check)
    return replace(plan, options=replace(plan.options, ranks_per_node=number))


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
