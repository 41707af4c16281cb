"""The search itself: hand out trials, and write down each as it finishes."""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Protocol

from exec.search.best import settle, stage
from exec.search.journal import Journal
from exec.search.record import TrialResult, best_trial
from exec.search.samplers import Sampler
from exec.search.trial import Outcome, Trial
from exec.transport.pool import Pool


class View(Protocol):
    """Whoever watches the search."""

    def start(self, trial: Trial) -> None:
        """Show that ``trial`` is handed out."""
        ...

    def finish(self, result: TrialResult) -> None:
        """Show what a trial came to."""
        ...


def run_search(
    pool: Pool[Trial, Outcome], journal: Journal, folder: Path, sample: Sampler, num_trials: int,
    view: View, label: Callable[[Outcome], Mapping[str, str]],
) -> None:  # fmt: skip
    """Run the trials below ``num_trials`` that are not in ``journal``, in the order of their index.

    As many are handed out at a time as there are groups; ``label`` says what is written into the
    weights of a new best trial.
    """
    trials = journal.contents.trials
    session = journal.contents.sessions[-1].session
    waiting = (index for index in range(num_trials) if index not in trials)
    running: dict[Future[Outcome], Trial] = {}
    while True:
        while len(running) < pool.num_groups and (index := next(waiting, None)) is not None:
            under_way = {trial.index: trial.config for trial in running.values()}
            config = sample(index, list(trials.values()), under_way)
            trial = Trial(index, config, session)
            view.start(trial)
            running[pool.submit(trial)] = trial
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda each: running[each].index):
            del running[future]
            outcome = future.result()
            _record(outcome, journal, folder, label)
            view.finish(outcome.result)


def _record(
    outcome: Outcome, journal: Journal, folder: Path, label: Callable[[Outcome], Mapping[str, str]]
) -> None:
    """Write down ``outcome``: see :mod:`exec.search.best` for the order."""
    results = [*journal.contents.trials.values(), outcome.result]
    is_best = outcome.weights is not None and best_trial(results) is outcome.result
    if is_best:
        assert outcome.weights is not None
        stage(folder, outcome.result, outcome.weights, label(outcome))
    journal.append(outcome.result)
    if is_best:
        settle(folder, results)
