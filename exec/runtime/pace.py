"""Padded compute: how long each op is to take, whatever this machine takes for it.

An op does its real mathematics, then its rank sleeps until the op's given time is over. If those
times are a large enough multiple of the real ones, many hosts take turns on few cores, and the
network is slow beside them in the same proportion: D. Gupta, K. Yocum, M. McNett, A. C. Snoeren,
A. Vahdat and G. M. Voelker, "To infinity and beyond: time-warped network emulation", NSDI 2006.

A pace file is JSON, and anybody can write one (``python -m sim.pace`` does, from a Machine)::

    {"format": "stepcast-pace-1", "multiple": 20.0, "source": "where the times come from",
     "times_s": {"linear": {"8x128x100": 0.0023}, "accumulate": {"0x0x1625": 0.0001}}}

``times_s`` has the seconds of a kernel on a shape, as programs print them: samples x inputs x
outputs, then ``@`` positions x input positions x window on images. Sums of received numbers are
``accumulate``, of 0x0xNUMBERS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exec.errors import UsageError
from exec.noise import Noise
from exec.program.ops import Kernel, Shape


class Pace(BaseModel):
    """The content of a pace file: see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    format: Literal["stepcast-pace-1"] = "stepcast-pace-1"
    multiple: Annotated[float, Field(gt=0)]
    source: str
    times_s: Mapping[Kernel, Mapping[str, Annotated[float, Field(ge=0)]]]

    def time_s(self, kernel: Kernel, shape: Shape) -> float:
        """Return how long ``kernel`` on ``shape`` is to take, in seconds.

        Raises:
            UsageError: the file does not say.
        """
        try:
            return self.times_s[kernel][str(shape)]
        except KeyError:
            raise UsageError(
                f"pace must have a time for each op of the program, got none for {kernel} {shape}; "
                f"make it anew with python -m sim.pace for this plan, batch and number of samples"
            ) from None


def read_pace(path: Path) -> Pace:
    """Return the pace in the file ``path``.

    Raises:
        UsageError: no such file, or not of the format; the message names the key.
    """
    try:
        return Pace.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"pace must be a file of op times, got {path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"]) or "the file"
        raise UsageError(f"pace must be a file of op times, got {path}: {where}: {first['msg']}") from error  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pacing:
    """What pads the ops of a training: their times, and the noise that is to be on them."""

    pace: Pace
    noise: Noise | None = None
