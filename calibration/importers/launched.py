"""Launch lines in logs: over how many ranks and nodes a benchmark was started."""

import re

from calibration.importers.measured import Layout

_LAUNCHER = re.compile(r"^\s*(?:\$\s*|\+\s*)?(?:\S+=\S+\s+)*(srun|mpirun|mpiexec(?:\.\w+)?)\s(.*)")
_RANKS = re.compile(r"(?:^|\s)(?:-np?|--np?|--ntasks)(?:\s+|=)?(\d+)(?=\s|$)")
_NODES = re.compile(r"(?:^|\s)(?:-N|--nodes)(?:\s+|=)?(\d+)(?=\s|$)")
_PER_NODE = re.compile(
    r"(?:^|\s)(?:--ntasks-per-node|-npernode|--npernode|-ppn|--ppn)(?:\s+|=)?(\d+)(?=\s|$)"
)


def layout_of(line: str) -> Layout | None:
    """Return what a line that starts a job says of its ranks, or None if it starts none.

    >>> layout_of("$ srun -N2 --ntasks-per-node=4 --mpi=pmix ./osu_alltoall")
    Layout(ranks=8, nodes=2, ranks_per_node=4)
    """
    launch = _LAUNCHER.match(line)
    if launch is None:
        return None
    arguments = launch[2]
    ranks, nodes, per_node = (_found(each, arguments) for each in (_RANKS, _NODES, _PER_NODE))
    if launch[1] != "srun":  # Open MPI's -N is the ranks of a node, MPICH has none
        nodes, per_node = None, per_node or nodes
    if ranks is None and nodes is not None and per_node is not None:
        ranks = nodes * per_node
    if not all(value is None or value >= 1 for value in (ranks, nodes, per_node)):
        return None
    return Layout(ranks, nodes, per_node)


def _found(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return None if match is None else int(match[1])
