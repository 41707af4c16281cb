"""Forms: how many latencies and transfers a collective takes over p ranks, by algorithm.

The time is ``fixed + A(p) alpha + B(p) beta n`` for a buffer of n bytes. Constant factors of A and
B are left out, for the fit finds them in alpha and beta: only how they grow with p tells one
algorithm from another.

Sources: R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective communication
operations in MPICH", Int. J. High Perform. Comput. Appl. 19 (2005) 49-66, sections 3 and 4; for
the double binary tree P. Sanders, J. Speck and J. L. Traeff, "Two-tree algorithms for full
bandwidth broadcast, reduction and scan", Parallel Computing 35 (2009) 581-594.
"""

import math
from enum import StrEnum

from calibration.importers.measured import Operation


class Form(StrEnum):
    """An algorithm, by how its time grows with the ranks."""

    HALVING_DOUBLING = "halving_doubling"
    RING = "ring"
    RECURSIVE_DOUBLING = "recursive_doubling"
    DOUBLE_TREE = "double_tree"
    LINEAR = "linear"


FORMS: dict[Operation, tuple[Form, ...]] = {
    Operation.ALLREDUCE: tuple(Form),
    Operation.ALLGATHER: (Form.RECURSIVE_DOUBLING, Form.RING),
    Operation.REDUCE_SCATTER: (Form.HALVING_DOUBLING, Form.RING, Form.LINEAR),
    Operation.ALLTOALL: (Form.RING, Form.RECURSIVE_DOUBLING),
    Operation.BROADCAST: (Form.HALVING_DOUBLING, Form.RECURSIVE_DOUBLING, Form.DOUBLE_TREE, Form.LINEAR),
    Operation.REDUCE: (Form.HALVING_DOUBLING, Form.RECURSIVE_DOUBLING, Form.DOUBLE_TREE, Form.LINEAR),
    Operation.GATHER: (Form.RECURSIVE_DOUBLING, Form.LINEAR),
    Operation.SCATTER: (Form.RECURSIVE_DOUBLING, Form.LINEAR),
    Operation.BARRIER: (Form.RECURSIVE_DOUBLING, Form.LINEAR),
}  # fmt: skip
"""Which forms an operation may have; of those that explain as much, the first."""


def counts(operation: Operation, form: Form, ranks: int) -> tuple[float, float]:
    """Return ``A(p)`` and ``B(p)``.

    >>> counts(Operation.ALLREDUCE, Form.RING, 4)
    (6.0, 1.5)
    """
    doublings, rest = float(math.ceil(math.log2(ranks))), ranks - 1.0
    share = rest / ranks
    match form, operation:
        case (Form.HALVING_DOUBLING, _):
            return doublings, 2.0 * share
        case (Form.RING, Operation.ALLREDUCE):
            return 2.0 * rest, 2.0 * share
        case (Form.RING, _):
            return rest, share
        case (Form.RECURSIVE_DOUBLING, Operation.ALLGATHER | Operation.GATHER | Operation.SCATTER):
            return doublings, share
        case (Form.RECURSIVE_DOUBLING, Operation.ALLTOALL):
            return doublings, doublings / 2.0
        case (Form.RECURSIVE_DOUBLING, _):
            return doublings, doublings
        case (Form.DOUBLE_TREE, _):
            return doublings, 2.0
        case (Form.LINEAR, Operation.GATHER | Operation.SCATTER):
            return rest, share
        case _:
            return rest, rest
