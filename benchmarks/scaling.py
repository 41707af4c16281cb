"""Strong scaling over MPI ranks, measured and forecast: ``python benchmarks/scaling.py``.

The same global batch on 1, 2, 4, 8 and 16 ranks, as data, pipeline, tensor and hybrid parallelism,
one BLAS thread and, where mpiexec can, one core a rank. First this computer is calibrated on one
and two ranks; that Machine is frozen and forecasts every case; then the trainer runs them, all in
each round. So whatever is told of four ranks and more was forecast before anybody ran it.
Speedups are ratios inside a round. Counts beyond the cores there are, and plans that a network is
too shallow or too narrow for, are skipped, with the reason.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from mpi_runs import binding_of, calibrate, launcher, num_physical_cores, train
from records import check_writable, provenance, write_records
from rich.console import Console
from rounds import interleave, ratio, spread
from scaling_cases import Case, cases, why_not
from scaling_table import scaling_table

from calibration.machine import Machine, read_machine
from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.plan.strategy import Strategy
from exec.runtime.report import num_cores
from exec.workload import positive
from sim.balance import calibrated
from sim.costs import Costs
from sim.forecast import Engine, Forecast, forecast

LEARNING_RATE = 0.01  # noise is not to be learnt by heart, nor to saturate units
RUN_S, LEAST_STEPS, MOST_STEPS = 0.6, 12, 2000  # of a run of the trainer; five steps warm up
MOST_NUMBERS = 8_000_000  # of all images together
QUICK_NETS = (("128-100-26", 256),)
MOST_SEEN = 2  # ranks that the calibration ran on

Flag = Annotated[bool, Parameter(negative=())]
Key = tuple[str, int]

app = make_app("python benchmarks/scaling.py", "Scale over ranks, measured and forecast.")


@app.default
def scaling(
    *, rounds: int = 5, most_ranks: int = 16, strategies: tuple[Strategy, ...] = (), machine: Path | None = None, quick: Flag = False,
    out: Path | None = None,
) -> None:  # fmt: skip
    """Scale over ranks, measured and forecast.

    Parameters
    ----------
    rounds
        How often each case is run.
    most_ranks
        Run on no more ranks than this.
    strategies
        Only these, and one rank.
    machine
        Forecast by this Machine file of this computer, calibrated on at most two ranks, instead of
        calibrating now.
    quick
        One round of one small network, calibrated in less time: to see that it works.
    out
        Write the records here, as JSON lines.
    """
    positive("rounds", rounds)
    positive("most-ranks", most_ranks)
    check_writable(out)
    launcher()
    head = provenance("mpi4py", "mpich") | {
        "physical_cores": num_physical_cores(),
        "bound": {str(ranks): " ".join(binding_of(ranks)) for ranks in (2, 4, 8, 16) if ranks <= num_cores()},
    }  # fmt: skip
    frozen = _frozen(machine, is_quick=quick)
    chosen = [each for each in (cases(QUICK_NETS, 0) if quick else cases()) if each.ranks <= most_ranks]  # fmt: skip
    if strategies:
        chosen = [each for each in chosen if each.strategy in (Strategy.SERIAL, *strategies)]
    reasons = {each: why_not(each, num_cores()) for each in chosen}
    run = [each for each in chosen if reasons[each] is None]
    answers = {each: _forecast(frozen, each) for each in run}
    times_s = _measured(answers, *((1, 0.0) if quick else (rounds, RUN_S)))
    records = [_record(each, answers, times_s) for each in run]
    skipped = [_skipped(case, reason) for case, reason in reasons.items() if reason is not None]
    if out is not None:
        known = {"kind": "machine", "machine": frozen.model_dump(mode="json", exclude_none=True)}
        write_records(out, [head, known, *records, *skipped])
    screen = console(200)
    for text in scaling_table(head, records, skipped):
        screen.print(text, crop=False)


def _frozen(given: Path | None, *, is_quick: bool) -> Machine:
    """Return what forecasts: measured before any case is run, on at most two ranks."""
    if given is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "machine.json"
            _say("calibrating on 1 and 2 ranks")
            calibrate(path, is_quick=is_quick)
            return read_machine(path)
    machine = read_machine(given)
    seen = max((link.allreduce_ranks.high for link in machine.links.values()), default=1)
    if seen > MOST_SEEN:
        raise UsageError(f"machine must be calibrated on at most {MOST_SEEN} ranks, got {seen:g}")
    return machine


def _forecast(machine: Machine, case: Case) -> Forecast:
    costs = Costs(machine, case.mesh, case.ranks)
    options = calibrated(costs, case.workload, case.options)
    return forecast(machine, case.workload, case.mesh, options, ranks_per_node=case.ranks, engine=Engine.SOLVE)  # fmt: skip


def _measured(answers: dict[Case, Forecast], rounds: int, run_s: float) -> dict[Case, list[float]]:
    """Return the median step of each case in each round."""
    total, count = rounds * len(answers), iter(range(1, rounds * len(answers) + 1))

    def run(case: Case, answer: Forecast) -> float:
        _say(f"run {next(count)} of {total}: {case.net}, {case.strategy} on {case.ranks}")
        return _step_time_s(case, answer, run_s)

    contenders = {case: lambda _, case=case, answer=answer: run(case, answer) for case, answer in answers.items()}  # fmt: skip
    return interleave(contenders, range(rounds))


def _step_time_s(case: Case, answer: Forecast, run_s: float) -> float:
    """Return the trainer's median step, of a run of about ``run_s``."""
    expected_s, workload = answer.step_time_s, case.workload
    steps = min(MOST_STEPS, max(LEAST_STEPS, int(run_s / expected_s)))
    most = max(4, MOST_NUMBERS // workload.network.num_features // case.batch)
    per_epoch = min(steps, most)
    stages = ",".join(load.first_layer for load in answer.stages[1:])
    record = train(case.ranks, [
        *case.arguments(stages), "--data", "noise", "--num-train", str(case.batch * per_epoch), "--num-test", "16",
        "--epochs", str(max(1, round(steps / per_epoch))), "--lr", str(LEARNING_RATE),
    ])  # fmt: skip
    return float(record["step_time_s"])


def _record(
    case: Case, answers: dict[Case, Forecast], times_s: dict[Case, list[float]]
) -> dict[str, Any]:
    answer, own_s = answers[case], times_s[case]
    alone = Case(case.net, case.batch, Strategy.SERIAL, 1)
    measured = spread(own_s)
    low_s, high_s = answer.interval_s
    speedup, speedup_low, speedup_high = answer.speedup_over(answers[alone])
    return {
        "kind": "scaling", "net": case.net, "batch": case.batch, "strategy": case.strategy, "ranks": case.ranks,
        "mesh": str(case.mesh), "microbatches": answer.options.num_microbatches,
        "stages": [load.first_layer for load in answer.stages],
        "was_seen": case.ranks <= MOST_SEEN,
        "times_s": own_s, "measured_s": measured.median, "measured_low_s": measured.low, "measured_high_s": measured.high,
        "forecast_s": answer.step_time_s, "forecast_low_s": low_s, "forecast_high_s": high_s,
        "error": answer.step_time_s / measured.median - 1.0,
        "is_inside": low_s <= measured.median <= high_s,
        "speedup": asdict(ratio(times_s[alone], own_s)),
        "forecast_speedup": {"median": speedup, "low": speedup_low, "high": speedup_high},
        "extrapolated": list(answer.extrapolated),
    }  # fmt: skip


def _skipped(case: Case, reason: str) -> dict[str, Any]:
    return {"kind": "skipped", "net": case.net, "batch": case.batch, "strategy": case.strategy,
            "ranks": case.ranks, "reason": reason}  # fmt: skip


def _say(what: str) -> None:
    Console(stderr=True, highlight=False).print(what)


if __name__ == "__main__":
    run_app(app)
