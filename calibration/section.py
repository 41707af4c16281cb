"""What every section of a Machine is: frozen data that refuses unknown keys, with ranges and tiers."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a Machine."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        strict=True,
        hide_input_in_errors=False,
        defer_build=True,  # most sections are only read as parts of a Machine
    )


class Tier(StrEnum):
    """Where two ranks meet."""

    NODE = "node"
    NETWORK = "network"


class Range(Section):
    """The smallest and the largest value that was measured."""

    low: NonNegative
    high: NonNegative

    def holds(self, value: float) -> bool:
        """Say whether ``value`` was within what was measured."""
        return self.low <= value <= self.high
