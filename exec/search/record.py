"""What is written of a trial and of a session: the lines of a search's journal."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from exec.search.space import Config

NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class State(StrEnum):
    """How a trial ended: it trained to its end, or it failed, for instance by diverging."""

    DONE = "done"
    FAILED = "failed"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EpochResult(_Line):
    """What an epoch came to: mean training loss, accuracy on the validation samples."""

    epoch: int
    loss: float
    accuracy: float
    time_s: NonNegative


class TrialResult(_Line):
    """A finished trial.

    ``started_s`` and ``ended_s`` count from the start of the ``session``, which is how often the
    search has been started, from 0. ``train_time_s`` is that of the epochs without their tests.
    """

    kind: Literal["trial"] = "trial"
    index: Count
    config: Config
    state: State
    reason: str = ""
    accuracy: float | None
    loss: float | None
    epochs: tuple[EpochResult, ...]
    train_time_s: NonNegative
    started_s: NonNegative
    ended_s: NonNegative
    group: Count
    session: Count

    @property
    def time_s(self) -> float:
        """How long the trial held its group."""
        return self.ended_s - self.started_s


class SessionStart(_Line):
    """A start of the search: on how many ranks, and how many trials were asked for in all."""

    kind: Literal["session"] = "session"
    session: Count
    ranks: Annotated[int, Field(ge=1)]
    num_groups: Annotated[int, Field(ge=1)]
    trials: Annotated[int, Field(ge=1)]
    date: str
    oversubscribed: bool


def best_trial(results: Iterable[TrialResult]) -> TrialResult | None:
    """Return the trial of the highest accuracy, of equals that of the least loss, then the first."""
    done = [result for result in results if result.accuracy is not None]
    return min(done, key=_badness, default=None)


def _badness(result: TrialResult) -> tuple[float, float, int]:
    assert result.accuracy is not None
    assert result.loss is not None
    return -result.accuracy, result.loss, result.index
