"""Search for good hyper-parameters: ``python -m exec.tune``, alone, or under ``mpiexec -n P``."""

import json as json_format
import os
import re
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from threadpoolctl import threadpool_limits

from exec.cli import console, make_app, run_app
from exec.data.dataset import Dataset
from exec.errors import UsageError
from exec.launch import launched_ranks
from exec.nn.backend import DTYPES
from exec.runtime.job import TransportName, choose_transport, ended_with, run_job, together
from exec.runtime.report import is_oversubscribed, num_cores
from exec.runtime.source import Source
from exec.search.forecast import DEFAULT_RANKS, check_last, forecast_rows
from exec.search.journal import Journal, read_journal
from exec.search.plot import check_plot, draw_search
from exec.search.record import SessionStart
from exec.search.run import run_search
from exec.search.samplers import count_trials, make_sampler
from exec.search.search import JOURNAL, Search
from exec.search.space import parse_space
from exec.search.summary import headline, print_forecasts, print_search, search_record
from exec.search.trial import Outcome, Trial, run_trial, weights_label
from exec.search.view import SearchView
from exec.transport.mpi import MpiTransport
from exec.transport.pool import Pool, num_groups, run_pool
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import positive

app = make_app("python -m exec.tune", "Search for good hyper-parameters, alone or under mpiexec.")

Flag = Annotated[bool, Parameter(negative=())]


@app.default
def tune(
    *,
    layers: str = "1,2",
    units: str = "50,100",
    learning_rate: Annotated[str, Parameter(name=("--learning-rate", "--lr"))] = "0.25,0.5,1",
    batch: str = "32",
    epochs: str = "3",
    sampler: str = "grid",
    trials: int | None = None,
    ranks_per_trial: int = 1,
    out: Path = Path("build/search"),
    data: str = "drawn",
    data_dir: Path | None = None,
    test_file: Path | None = None,
    fold: int = 0,
    num_train: int | None = None,
    num_test: int | None = None,
    validation: float = 0.2,
    momentum: float = 0.0,
    dtype: str = "float32",
    seed: int = 0,
    blas_threads: int = 1,
    plot: Path | None = None,
    json: Flag = False,
) -> None:
    """Search for good hyper-parameters, alone or under mpiexec.

    The same command goes on where it was stopped. Under mpiexec rank 0 hands out the trials, and
    the other ranks train. What the search took, and would take on other ranks, is printed at its
    end, and by: python -m exec.tune forecast OUT.

    Parameters
    ----------
    layers
        Numbers of hidden layers: values joined by ',' or a range LOW:HIGH, as all of the space.
    units
        Units of each hidden layer; a range is drawn from evenly in the logarithm.
    learning_rate
        Learning rates; a range is drawn from evenly in the logarithm.
    batch
        Global batches; a range is drawn from evenly in the logarithm.
    epochs
        Passes over the training data.
    sampler
        grid (every combination of the values), random, or with the tune extra tpe or gp (Optuna's).
    trials
        How many configurations to try; the whole grid, or 16.
    ranks_per_trial
        Train each trial data-parallel on so many ranks; without mpiexec on threads.
    out
        The folder of the journal (trials.jsonl), best.json and best.safetensors.
    data
        drawn (letters the project draws itself), letters, mnist, svhn (house numbers in colour), or
        the path of a label-first CSV file.
    data_dir
        Where the real data sets lie; without it they are downloaded into a cache.
    test_file
        The CSV file to test on.
    fold
        Which fold of letters tests.
    num_train
        Search with the first so many training samples of a file, all unless given; or draw so many
        (drawn), 20000 unless given.
    num_test
        Test on so many in the same way; 4000 drawn unless given.
    validation
        The share of the training samples on which trials are judged; the test samples are kept for
        the best one.
    momentum
        The momentum of SGD.
    dtype
        float32 or float64.
    seed
        The seed of weights, order of samples, drawn letters and the sampler.
    blas_threads
        Threads of each rank's matrix products.
    plot
        Draw the search here, once it is done.
    json
        Print one JSON record instead of text.
    """
    space = parse_space({"layers": layers, "units": units, "learning_rate": learning_rate,
                         "batch": batch, "epochs": epochs})  # fmt: skip
    for option, value in (("num-train", num_train), ("num-test", num_test), ("blas-threads", blas_threads)):  # fmt: skip
        positive(option, 1 if value is None else value)
    positive("momentum", momentum, or_zero=True)
    if momentum >= 1:
        raise UsageError(f"momentum must be less than 1, got {momentum}")
    if not 0 < validation < 1:
        raise UsageError(f"validation must be a share above 0 and below 1, got {validation}")
    if seed < 0:
        raise UsageError(f"seed must be at least 0, got {seed}")
    if dtype not in DTYPES:
        raise UsageError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if data == "noise":
        raise UsageError("data must have something to learn for a search, got noise")
    num_groups(launched_ranks(os.environ), ranks_per_trial)
    sample = make_sampler(sampler, space, seed)
    source = Source(data, data_dir, test_file, fold, num_train, num_test, seed)
    search = Search(space, sampler, sample, count_trials(sampler, space, trials), source, validation,
                    dtype, momentum, seed, ranks_per_trial, blas_threads, out)  # fmt: skip
    if plot is not None:
        check_plot(plot)

    def body(world: Transport) -> None:
        with threadpool_limits(blas_threads):
            _run(world, search, plot, is_json=json)

    run_job(choose_transport(TransportName.AUTO), None, body)


@app.command
def forecast(
    *folders: Path,
    ranks: str = ",".join(map(str, DEFAULT_RANKS)),
    trials: int | None = None,
    plot: Path | None = None,
    json: Flag = False,
) -> None:
    """Forecast how long searches take on other numbers of ranks, from their measured trials.

    Several folders hold the same search on different --ranks-per-trial: then the best way to use
    each number of ranks is bold.

    Parameters
    ----------
    folders
        Folders of searches.
    ranks
        Numbers of ranks, joined by ','; rank 0 hands out, unless it is alone.
    trials
        Forecast so many trials like those, not those.
    plot
        Draw the first search and all forecasts here.
    json
        Print one JSON record instead of text.
    """
    if not folders:
        raise UsageError("folders must name at least one folder of a search, got none")
    if trials is not None:
        positive("trials", trials)
    words = [word.strip() for word in ranks.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,6}", word) and int(word) for word in words):
        raise UsageError(f"ranks must be whole numbers above 0 joined by ',', got {ranks!r}")
    searches = [read_journal(folder / JOURNAL) for folder in folders]
    rows = forecast_rows(searches, sorted({int(word) for word in words}), trials)
    checks = [check for each in searches if (check := check_last(each)) is not None]
    if plot is not None:
        draw_search(plot, searches[0], rows, checks)
    if json:
        print(json_format.dumps(search_record(searches[0], rows, checks), allow_nan=False))
    else:
        print_forecasts(console(), rows, checks)


def _run(world: Transport, search: Search, plot: Path | None, *, is_json: bool) -> None:
    """Search on all ranks of ``world``; rank 0 hands out and speaks."""
    dataset = together(world, search.source.load)
    setting = together(world, lambda: search.setting(dataset))
    is_over = _is_oversubscribed(world, search.ranks_per_trial)
    journal = together(world, lambda: search.open(world.library) if world.rank == 0 else None)
    world.gather_objects(None)
    origin_s = perf_counter()

    def clock() -> float:
        return perf_counter() - origin_s

    def lead(pool: Pool[Trial, Outcome]) -> None:
        assert journal is not None
        out = Console(stderr=True, highlight=False, soft_wrap=True) if is_json else console()
        with journal:
            _lead(pool, search, journal, dataset, world.size, out, is_over=is_over)
        contents = journal.contents
        rows = forecast_rows([contents], sorted({*DEFAULT_RANKS, world.size}))
        check = check_last(contents)
        checks = [] if check is None else [check]
        if plot is not None:
            draw_search(plot, contents, rows, checks)
        if is_json:
            print(json_format.dumps(search_record(contents, rows, checks), allow_nan=False))
        print_search(out, contents, search.out)
        print_forecasts(out, rows, checks)

    def work(trial: Trial, wire: Transport, group: int) -> Outcome:
        return run_trial(trial, setting, wire, clock, group=group)

    if isinstance(world, MpiTransport):
        run_pool(world, search.ranks_per_trial, ended_with(world, lead), ended_with(world, work))
    else:
        lead(_serial_pool(search.ranks_per_trial, work))


def _lead(
    pool: Pool[Trial, Outcome], search: Search, journal: Journal, dataset: Dataset, ranks: int,
    out: Console, *, is_over: bool,
) -> None:  # fmt: skip
    """Run the trials that the journal lacks."""
    finished = list(journal.contents.trials.values())
    num_left = search.num_trials - sum(each.index < search.num_trials for each in finished)
    out.print(headline(search, dataset, ranks, pool.num_groups))
    if finished:
        out.print(f"{len(finished)} trials were there already, {num_left} are left")
    if num_left == 0:
        return
    if is_over:
        out.print(f"oversubscribed: the trials share {num_cores()} cores; their times are not those of free cores")  # fmt: skip
    session = SessionStart(
        session=len(journal.contents.sessions), ranks=ranks, num_groups=pool.num_groups,
        trials=search.num_trials, date=datetime.now(UTC).isoformat(timespec="seconds"),
        oversubscribed=is_over,
    )  # fmt: skip
    journal.append(session)
    with SearchView(out, finished, search.num_trials) as view:
        run_search(pool, journal, search.out, search.sample, search.num_trials, view,
                   partial(weights_label, dataset))  # fmt: skip


def _serial_pool(
    ranks_per_trial: int, work: Callable[[Trial, Transport, int], Outcome]
) -> Pool[Trial, Outcome]:
    """Return the pool of one group that does each task when it is handed out, on threads."""

    def submit(trial: Trial) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(run_threads(ranks_per_trial, lambda wire: work(trial, wire, 0))[0])
        return future

    return Pool(1, submit)


def _is_oversubscribed(world: Transport, ranks_per_trial: int) -> bool:
    """Say whether the ranks that train share cores; rank 0 of several sleeps."""
    if world.size == 1:
        return ranks_per_trial > num_cores()
    training = world.split(int(world.rank > 0))
    is_over = is_oversubscribed(training)
    training.close()
    return any(world.gather_objects(is_over))


if __name__ == "__main__":
    run_app(app)
