"""A rank of a job over TCP: started by the tests with the variables of a launcher."""

import os
import signal
import sys
import threading

import numpy as np

from exec.errors import StepcastError
from exec.program.ops import CollectiveKind
from exec.runtime.job import ended_with
from exec.transport.rendezvous import find_rendezvous
from exec.transport.tcp import TcpTransport, connect
from tests.exec.transport.conformance import TCP_CASES, conform


def wait_for_ever(wire: TcpTransport) -> None:
    """Wait for a message that nobody sends."""
    wire.receive(np.empty(1), 0, 99).Wait()


def lose(rank: int, wire: TcpTransport) -> None:
    """Kill ``rank`` while the others wait: in a collective, for a message, or looking only."""
    wire.gather_objects(None)
    if wire.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    match wire.rank % 3:
        case 0:
            wire.run_collective(CollectiveKind.ALLREDUCE, np.zeros(3), [], 0)
        case 1:
            wait_for_ever(wire)
        case _:
            while True:
                wire.check()
                threading.Event().wait(0.01)


def run(name: str, wire: TcpTransport) -> None:
    match name.split(":"):
        case ["conform"]:
            conform(wire, TCP_CASES)
            wire.close()
        case ["lose", rank]:
            lose(int(rank), wire)
        case ["raise", rank]:
            if wire.rank == int(rank):
                raise ArithmeticError("cannot count")
            wait_for_ever(wire)
        case ["share"]:
            wire.share(3, "float32")


if __name__ == "__main__":
    rendezvous = find_rendezvous(os.environ)
    assert rendezvous is not None
    try:
        transport = connect(rendezvous)
    except StepcastError as error:
        sys.exit(f"error: {error}")
    ended_with(transport, run)(sys.argv[1], transport)
