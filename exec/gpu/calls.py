"""Calls joined into one."""

from exec.device.protocol import Call


def in_turn(*calls: Call) -> Call:
    """Return a call that makes ``calls``, one after another."""
    if len(calls) == 1:
        return calls[0]

    def call_all() -> None:
        for call in calls:
            call()

    return call_all
