"""What a training writes beside its record: the model, the trace, the arrivals, the plot."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exec.data.dataset import Dataset
from exec.errors import UsageError
from exec.program.timeline import Span, chrome_trace
from exec.runtime.checkpoint.training import CheckpointOptions
from exec.runtime.job import together
from exec.runtime.model_file import save_weights
from exec.runtime.monitor import Usage
from exec.runtime.report import gather_spans
from exec.runtime.session import Epoch, Session
from exec.runtime.utilisation import counters
from exec.runtime.utilisation_plot import draw_utilisation
from exec.transport.protocol import Transport


@dataclass(frozen=True, slots=True)
class Files:
    """What a training reads and writes beside its samples and its record."""

    load: Path | None
    save: Path | None
    trace: Path | None
    arrivals: Path | None
    monitor_plot: Path | None
    is_monitored: bool
    checkpoint: CheckpointOptions | None


def write_files(
    files: Files, session: Session, spans: Sequence[Span], usages: Sequence[Usage], what: str,
    origin_s: float,
) -> None:  # fmt: skip
    """Write what was asked for beside the record; all ranks must call it together."""
    wire = session.transport
    speaks, texts = wire.rank == 0, {}
    if files.trace is not None:
        gathered = gather_spans(spans, origin_s, wire)
        texts[files.trace] = chrome_trace(gathered, counters(usages)) if speaks else ""
    if files.arrivals is not None:
        taken = wire.gather_objects(session.arrivals)[: session.plan.options.servers]
        texts[files.arrivals] = json.dumps({"ranks": wire.size, "arrivals": taken}) + "\n"
    for path, text in texts.items():
        together(wire, lambda: _write(path, text) if speaks else None)  # noqa: B023  # called now
    if (plot := files.monitor_plot) is not None:
        title = f"{what}, {session.plan.options.strategy} on {wire.size} rank{'s' * (wire.size > 1)}"  # fmt: skip
        together(wire, lambda: draw_utilisation(plot, usages, title) if speaks else None)


def save_model(
    session: Session, path: Path, dataset: Dataset, epoch: Epoch, wire: Transport
) -> None:
    """Write the weights to ``path``, with where they come from; all ranks must call it together."""
    weights = session.weights()
    metadata = {
        "net": session.plan.workload.net,
        "data": dataset.name,
        "epoch": str(epoch.epoch),
        "test_accuracy": str(epoch.test_accuracy),
    }
    together(wire, lambda: save_weights(path, weights, metadata) if wire.rank == 0 else None)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from error
