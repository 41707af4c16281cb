"""Made-up results, for what reads a sweep without running one."""

from exec.sweeps.cells import Cell, Scalar
from exec.sweeps.journal import Epoch, Header, Journal, Line, Record


def line(
    epoch_time_s: float | None, accuracy: float = 0.5, *, over: bool = False, seed: int = 0,
    **cell: Scalar,
) -> Line:  # fmt: skip
    """Return the line of a training of two equal epochs; None is a refusal."""
    full: Cell = {"ranks": 1} | cell | {"seed": seed}
    if epoch_time_s is None:
        return Line(cell=full, refused="it cannot be\nat all")
    epochs = tuple(Epoch(time_s=epoch_time_s, test_accuracy=accuracy * i / 2) for i in (1, 2))
    record = Record(ranks=1, net="128-8-26", data="drawn", oversubscribed=over, epochs=epochs)
    return Line(cell=full, record=record)


def journal(*lines: Line, transport: str = "mpi") -> Journal:
    """Return the journal of ``lines``."""
    axes = tuple(name for name in lines[0].cell if name != "seed")
    header = Header.model_validate({"transport": transport, "axes": axes, "fixed": {}, "cpu": "Z80"})  # fmt: skip
    return Journal(header, lines, ())
