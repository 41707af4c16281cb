"""A group: the ranks of one expanded collective, and the messages that they exchange."""

from dataclasses import dataclass, replace

from exec.program.ops import Accumulate, Collective, Lane, Op, Receive, Send, Wait
from exec.program.peers import Anchor, Chunks, Part

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class Group:
    """One expansion: the collective, its ``size`` ranks, and a ``tag`` of its own."""

    op: Collective
    size: int
    tag: int

    def chunk(self, anchor: Anchor, num_chunks: int, width: int = 1, node_size: int = 1) -> Part:
        """Return a block of ``width`` of the ``num_chunks`` chunks of the collective's part."""
        return replace(self.op.part, chunks=Chunks(num_chunks, anchor, width, node_size))

    def scratch(self, part: Part) -> Part:
        """Return the place in the scratch buffer for what will be added to ``part``."""
        return replace(part, buffer=SCRATCH, start=0, stop=part.stop - part.start)

    def exchange(self, step: str, out: Part, to: Anchor, into: Part, source: Anchor) -> list[Op]:
        """Return a send and a receive at once, and the wait until the sent part is free again."""
        id = f"{self.op.id}.{step}"
        return [
            Send(f"{id}.send", out, to, self.tag),
            Receive(f"{id}.receive", into, source, self.tag),
            Wait(Lane.COMM, f"{id}.send"),
        ]

    def add(self, step: str, out: Part, to: Anchor, into: Part, source: Anchor) -> list[Op]:
        """Return an exchange whose received part is added to ``into``."""
        scratch = self.scratch(into)
        return [*self.exchange(step, out, to, scratch, source), Accumulate(into, scratch)]

    def send(self, step: str, to: Anchor) -> list[Op]:
        """Return a send of the whole part, and the wait until it is free again."""
        id = f"{self.op.id}.{step}"
        return [Send(id, self.op.part, to, self.tag), Wait(Lane.COMM, id)]

    def receive(self, step: str, source: Anchor, *, is_added: bool) -> list[Op]:
        """Return a receive of the whole part, which replaces it or is added to it."""
        part = self.op.part
        into = self.scratch(part) if is_added else part
        ops: list[Op] = [Receive(f"{self.op.id}.{step}", into, source, self.tag)]
        return [*ops, Accumulate(part, into)] if is_added else ops
