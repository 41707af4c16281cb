"""One slow rank: when does the asynchronous server win? ``python benchmarks/slow_node.py``.

Two workers train on equal work; one of them is made to compute so many times longer. Data
parallelism (2 ranks) waits for it; the asynchronous server (a third rank) does not. Rounds are
interleaved; told is the median time of an epoch (least..most), the share of gradients that the
slow worker sent, and the forecast. Where cores are fewer than ranks the server has none of its own.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from records import check_writable, provenance, write_records
from rich.table import Table

from calibration.find import find_machine
from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.launch import find_mpiexec
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.staleness import staleness_record
from exec.workload import Workload, positive
from sim.forecast import Engine, forecast

NET, BATCH, SAMPLES, EPOCHS = "784-512-512-26", 256, 5120, 4
FACTORS = (1.0, 2.0, 4.0, 8.0)
RANKS = {Strategy.DATA: 2, Strategy.ASYNC_SERVER: 3}

app = make_app("python benchmarks/slow_node.py", "Slow one rank down, and compare.")


@app.default
def main(*, rounds: int = 3, machine: str = "local", out: Path | None = None) -> None:
    """Slow one rank down, and compare.

    Parameters
    ----------
    rounds
        How often each case is run.
    machine
        The Machine that forecasts: that of this machine.
    out
        Write JSON lines here.
    """
    positive("rounds", rounds)
    check_writable(out)
    found = find_machine(machine)
    cases = [(strategy, factor) for factor in FACTORS for strategy in RANKS]
    runs: dict[tuple[Strategy, float], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            runs[case].append(_run(*case))
    records = []
    for (strategy, factor), own in runs.items():
        times = [statistics.median(each["time_s"] for each in run["epochs"][1:]) for run in own]
        ranks = RANKS[strategy]
        answer = forecast(
            found, Workload(parse_net(NET), BATCH), Mesh(ranks), PlanOptions(strategy=strategy),
            ranks_per_node=ranks, engine=Engine.SIMULATE, epoch_samples=SAMPLES,
            slow=((ranks - 1, factor),),
        )  # fmt: skip
        expected = staleness_record(answer.arrivals) if answer.arrivals else None
        records.append({
            "kind": "slow",
            "strategy": str(strategy),
            "factor": factor,
            "oversubscribed": own[0]["oversubscribed"],
            "epoch_time_s": statistics.median(times),
            "epoch_time_low_s": min(times),
            "epoch_time_high_s": max(times),
            "slow_share": _slow_share(own[-1]["staleness"], ranks),
            "forecast_s": answer.epoch_time_s(SAMPLES),
            "forecast_slow_share": _slow_share(expected, ranks),
        })  # fmt: skip
    _print(records)
    if out is not None:
        head = provenance("mpi4py", "mpich") | {"net": NET, "batch": BATCH, "samples": SAMPLES, "forecast_by": found.name}  # fmt: skip
        write_records(out, [head | {"command": f"python benchmarks/slow_node.py --rounds {rounds}"}, *records])  # fmt: skip


def _run(strategy: Strategy, factor: float) -> dict[str, Any]:
    ranks = RANKS[strategy]
    command = [find_mpiexec() or "mpiexec", "-n", str(ranks), sys.executable, "-m", "exec.train", "--json", "--net", NET,
               "--data", "noise", "--num-train", str(SAMPLES), "--num-test", "16", "--batch", str(BATCH), "--lr", "0.05",
               "--epochs", str(EPOCHS), "--strategy", str(strategy), "--slow", f"{ranks - 1}={factor}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"the trainer failed: {strategy}\n{done.stderr.strip()}")
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def _slow_share(staleness: dict[str, Any] | None, ranks: int) -> float | None:
    if staleness is None:
        return None
    sent: dict[str, int] = staleness["gradients_of_rank"]
    return sent.get(str(ranks - 1), 0) / sum(sent.values())


def _print(records: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("slower", "strategy", "epoch ms", "(runs)", "slow rank's share", "forecast ms", "its share"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    for each in records:
        share, expected = (f"{each[key]:.0%}" if each[key] is not None else "" for key in ("slow_share", "forecast_slow_share"))  # fmt: skip
        table.add_row(
            f"{each['factor']:g} times", each["strategy"], f"{each['epoch_time_s'] * 1e3:.0f}",
            f"{each['epoch_time_low_s'] * 1e3:.0f}-{each['epoch_time_high_s'] * 1e3:.0f}", share,
            f"{each['forecast_s'] * 1e3:.0f}", expected,
        )  # fmt: skip
    console(120).print(table)


if __name__ == "__main__":
    run_app(app)
