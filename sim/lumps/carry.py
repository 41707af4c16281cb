"""What lumps that were cut had under way: their messages, channels and flows are cut like them."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sim.arrays.pieces import Ints
from sim.lumps.flows import Flows
from sim.lumps.split import Marks
from sim.lumps.state import Channel, Flow, Lump, Message

Pieces = dict[tuple[Message, Lump], Message]
"""What has become of a message, for each part of its senders and of its receivers."""


def carry_over(parts: dict[Lump, list[Lump]], marks: Marks, flows: Flows) -> None:
    """Give the ``parts`` of each lump theirs of its messages, by the ``marks`` of its members."""
    sent: Pieces = {}
    received: Pieces = {}
    for message in {message: None for lump in parts for message in lump.messages}:
        for piece in _pieces(message, parts, marks):
            if not message.has_arrived:
                sent[message, piece.source] = piece
            received[message, piece.dest] = piece
    for lump, own in parts.items():
        mail, messages = lump.mail, lump.messages
        for label, part in enumerate(own):
            part.messages = {
                table[message, part]: None
                for message in messages for table in (sent, received) if (message, part) in table
            }  # fmt: skip
            part.mail = {tag: [received[each, part] for each in queue] for tag, queue in mail.items()}  # fmt: skip
            part.board = [sent.get((each, part), each) if isinstance(each, Message) and not each.has_arrived else each for each in part.board]  # fmt: skip
            is_it = marks[lump] == label
            for lane in part.lanes:
                if lane.awaited is not None:
                    lane.awaited = sent.get((lane.awaited, part), lane.awaited)
                if lane.wants is not None:
                    lane.wants = lane.wants[0], lane.wants[1][is_it]
    for lump, own in parts.items():
        _cut_channels(lump, own, marks[lump], sent, flows)
    for piece in {**dict.fromkeys(sent.values()), **dict.fromkeys(received.values())}:
        if piece.flow is not None and not piece.has_arrived:
            flows.place(piece.flow)


def _pieces(message: Message, parts: dict[Lump, list[Lump]], marks: Marks) -> Iterator[Message]:
    """Yield what becomes of ``message``; the first is itself."""
    source, dest = message.source, message.dest
    dests, sources = message.dests, message.sources
    if message.has_arrived:
        for label, part in enumerate(parts[dest]):
            piece = message if not label else replace(message)
            piece.dest, piece.sources = part, sources[marks[dest] == label]
            yield piece
        return
    receivers = np.sort(dests)
    for label, part in enumerate(parts[source]):
        theirs = dests[marks[source] == label]
        other = int(marks[dest][np.searchsorted(receivers, theirs[0])])
        piece = message if not label else replace(message)
        piece.source, piece.dest = part, parts[dest][other]
        piece.dests, piece.sources = theirs, sources[marks[dest] == other]
        yield piece


def _cut_channels(lump: Lump, own: list[Lump], labels: Ints, sent: Pieces, flows: Flows) -> None:
    """Give each part of ``lump`` channels of its own, with what is on them."""
    channels = [channel for channel in lump.channels.values() if channel.flows]
    for label, part in reversed([*enumerate(own)]):  # the first goes on with what there was
        part.channels = {}
        for channel in channels:
            dests = channel.dests[labels == label]
            if label:
                one = Channel(dests)
                clones = {
                    flow: _clone(flow, sent[flow.message, part], one, flows)
                    for flow in channel.flows
                }
                one.flows = dict.fromkeys(clones.values())
                one.taken = None if channel.taken is None else clones[channel.taken]
                one.waiting = deque(clones[flow] for flow in channel.waiting)
            else:
                one = channel
                one.dests = dests
            part.channels[dests.tobytes()] = one


def _clone(flow: Flow, message: Message, channel: Channel, flows: Flows) -> Flow:
    """Return the part of ``flow`` that is ``message``, which is due when it is."""
    found = message.flow = replace(flow, message=message, channel=channel)
    if found.event_s is not None:
        found.event = flows.note(found.event_s, found)
    return found
