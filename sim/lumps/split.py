"""Splitting: a lump whose ranks differ from now on becomes several, and so does all that is tied to it.

A message on its way ties its receivers to its senders: where one of these lumps is cut, so is the
other. Ranks of a node share its links, so all ranks of a lump must have as many of each lump
beside them on their nodes; then as many flows cross each link that is taken for one.

Source: R. Paige and R. E. Tarjan, "Three partition refinement algorithms", SIAM J. Comput. 16 (1987).
"""

import numpy as np

from sim.arrays.pieces import Ints
from sim.costs import Costs
from sim.lumps.code import Code
from sim.lumps.state import NONE, Lump, Message

Marks = dict[Lump, Ints]
"""Of lumps that are to be cut, to which part each of their members goes."""


class Partition:
    """The ``lumps`` of all ranks; ``codes`` and ``nodes`` are those of each, no nodes if none are shared."""

    def __init__(self, lumps: list[Lump], codes: list[Code], code_of: Ints, nodes: Ints | None) -> None:  # fmt: skip
        self.lumps, self.nodes = lumps, nodes
        self.codes, self.code_of = codes, code_of
        self.lump_of = np.zeros(len(code_of), np.intp)
        for number, lump in enumerate(lumps):
            self.lump_of[lump.members] = number

    def closed(self, marks: Marks) -> Marks:
        """Return ``marks`` with all that must be cut too."""
        work = list(marks)
        while True:
            while work:
                for message in work.pop().messages:
                    if not message.has_arrived:
                        self._tie(message, marks, work)
            if self.nodes is not None:
                self._see_nodes(self.nodes, marks, work)
            if not work:
                return marks

    def _tie(self, message: Message, marks: Marks, work: list[Lump]) -> None:
        source, dest = message.source, message.dest
        if source in marks:
            theirs = marks[source][np.searchsorted(source.members, message.sources)]
            self._mark(dest, theirs, marks, work)
        if dest in marks:
            theirs = marks[dest][np.searchsorted(dest.members, message.dests)]
            self._mark(source, theirs, marks, work)

    def _see_nodes(self, nodes: Ints, marks: Marks, work: list[Lump]) -> None:
        """Mark ranks by what lumps their nodes have."""
        labels = self.lump_of * len(self.lump_of)
        for lump, own in marks.items():
            labels[lump.members] += own
        order = np.lexsort((labels, nodes))
        first = np.flatnonzero(np.diff(nodes[order], prepend=NONE))
        lengths = np.diff([*first, len(order)])
        rows = np.full((len(first), int(lengths.max())), NONE)
        columns = np.arange(len(order)) - np.repeat(first, lengths)
        rows[np.repeat(np.arange(len(first)), lengths), columns] = labels[order]
        kinds = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)[nodes]
        for lump in self.lumps:
            self._mark(lump, kinds[lump.members], marks, work)

    def _mark(self, lump: Lump, labels: Ints, marks: Marks, work: list[Lump]) -> None:
        if not (labels != labels[0]).any():
            return
        old = marks.get(lump)
        new = refined(np.zeros(len(labels), np.intp) if old is None else old, labels)
        if old is None or new.max() > old.max():
            marks[lump] = new
            work.append(lump)

    def cut(self, marks: Marks) -> dict[Lump, list[Lump]]:
        """Return the parts of the lumps of ``marks``; of the first each lump becomes itself."""
        return {lump: self._parts(lump, labels) for lump, labels in marks.items()}

    def _parts(self, lump: Lump, labels: Ints) -> list[Lump]:
        parts = [lump]
        for label in range(1, int(labels.max()) + 1):
            parts.append(lump.part(labels == label))
            self.lump_of[parts[-1].members] = len(self.lumps)
            self.lumps.append(parts[-1])
        lump.members = lump.members[labels == 0]
        lump.version += 1
        lump.ways, lump.sizes, lump.named = {}, {}, {}
        for part in parts:
            part.codes = self.codes_of(part.members)
        return parts

    def codes_of(self, members: Ints) -> tuple[Code, ...]:
        """Return the codes that some of ``members`` have."""
        return tuple(self.codes[number] for number in np.unique(self.code_of[members]).tolist())


def refined(old: Ints, new: Ints) -> Ints:
    """Return labels 0, 1, ... that differ where either of the two does; that of the first is 0."""
    _, first, inverse = np.unique(
        old * (int(new.max()) + 1) + new, return_index=True, return_inverse=True
    )
    order = np.empty(len(first), np.intp)
    order[np.argsort(first)] = np.arange(len(first))
    found: Ints = order[inverse]
    return found


def nodes_of(costs: Costs) -> Ints:
    """Return the node of each rank."""
    return np.arange(costs.mesh.world_size) // costs.ranks_per_node
