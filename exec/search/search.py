"""A search as the command line asks for it."""

import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exec.data.dataset import Dataset
from exec.errors import UsageError
from exec.runtime.report import cpu_model, num_cores, software
from exec.runtime.source import Source
from exec.search.best import settle
from exec.search.journal import Journal
from exec.search.samplers import Sampler
from exec.search.space import Space
from exec.search.trial import Setting, hold_back

JOURNAL = "trials.jsonl"


@dataclass(frozen=True, slots=True)
class Search:
    """What to search, how, and where to write it; ``validation`` is a share of the samples."""

    space: Space
    sampler: str
    sample: Sampler
    num_trials: int
    source: Source
    validation: float
    dtype: str
    momentum: float
    seed: int
    ranks_per_trial: int
    blas_threads: int
    out: Path

    def identity(self) -> dict[str, Any]:
        """Return all that must be the same for the search to go on in its folder.

        How many trials there are is not: a search may be given more.
        """
        source = self.source
        num_train, num_test = source.counts
        return {
            **self.space.spelled(), "sampler": self.sampler, "seed": self.seed, "data": source.name,
            "test_file": None if source.test_file is None else str(source.test_file),
            "fold": source.fold, "num_train": num_train, "num_test": num_test,
            "validation": self.validation, "momentum": self.momentum, "dtype": self.dtype,
            "ranks_per_trial": self.ranks_per_trial, "blas_threads": self.blas_threads,
        }  # fmt: skip

    def setting(self, dataset: Dataset) -> Setting:
        """Return what the trials have in common.

        Raises:
            UsageError: some point of the space cannot be trained.
        """
        held_back = hold_back(dataset, self.validation, self.seed)
        setting = Setting(held_back, self.dtype, self.momentum, self.seed)
        setting.check(self.space, self.ranks_per_trial)
        return setting

    def open(self, library: str) -> Journal:
        """Return the journal, whose best trial is settled; ``library`` carries the messages.

        Raises:
            UsageError: another search is there, or runs there.
            DataError: the folder cannot be written, or what is there is damaged.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"out must be a folder that can be made, got {self.out}: {error.strerror}") from error  # fmt: skip
        head = {
            "search": self.identity(),
            "cpu": cpu_model(),
            "cores": num_cores(),
            **software(),
            "transport": library,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", "-m", "exec.tune", *sys.argv[1:]]),
        }
        journal = Journal(self.out / JOURNAL, head)
        try:
            settle(self.out, list(journal.contents.trials.values()))
        except BaseException:
            journal.close()
            raise
        return journal
