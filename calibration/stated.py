"""Links that somebody states, as a data sheet does: ``network=6.8GB/s,2us``."""

import re
from collections.abc import Sequence

from calibration.collective_tiers import STATED_SIGMA
from calibration.machine import Curve, Link, Range, Segment, Tier
from exec.errors import UsageError

_STATED = re.compile(r"(\w+)=([\d.]+)([A-Za-z]+/s),([\d.]+)(us|ms|s)")
_BYTES = {
    "GB/s": 1e9, "MB/s": 1e6, "kB/s": 1e3, "GiB/s": 2.0**30, "MiB/s": 2.0**20,
    "Gbit/s": 1e9 / 8, "Mbit/s": 1e6 / 8, "kbit/s": 1e3 / 8,
}  # fmt: skip
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_LARGEST = 1e15


def stated_link(bytes_per_s: float, latency_s: float, source: str = "stated") -> Link:
    """Return a link of which nothing is known but its bandwidth and its latency.

    An all-reduce of two ranks takes what they take to exchange a message.
    """
    curve = Curve(
        segments=(Segment(up_to_nbytes=_LARGEST, alpha_s=latency_s, beta_s_per_byte=1.0 / bytes_per_s),),
        nbytes=Range(low=0, high=_LARGEST), rel_sigma=STATED_SIGMA, source=source,
    )  # fmt: skip
    return Link(message=curve, allreduce=curve, allreduce_ranks=Range(low=2, high=2), from_device=True)  # fmt: skip


def parse_links(spelled: Sequence[str]) -> dict[Tier, Link]:
    """Return the links that ``spelled`` state.

    >>> parse_links(["network=56Gbit/s,2us"])[Tier.NETWORK].message.at(1e6)
    (2e-06, 1.4285714285714286e-10)

    Raises:
        UsageError: one is not spelled so.
    """
    found: dict[Tier, Link] = {}
    for each in spelled:
        match = _STATED.fullmatch(each)
        if match is None or match[1] not in set(Tier) or match[3] not in _BYTES:
            raise UsageError(
                f"link must be TIER=RATE,LATENCY as network=6.8GB/s,2us, with tier {' or '.join(Tier)} "
                f"and a rate in {', '.join(_BYTES)}, got {each}"
            )
        tier = Tier(match[1])
        if tier in found:
            raise UsageError(f"link must state the {tier} once, got {each} too")
        try:
            rate, latency_s = float(match[2]) * _BYTES[match[3]], float(match[4]) * _SECONDS[match[5]]  # fmt: skip
        except ValueError as error:
            raise UsageError(f"link must have numbers, got {each}") from error
        if rate <= 0:
            raise UsageError(f"link must have a rate above 0, got {each}")
        found[tier] = stated_link(rate, latency_s, f"stated: {each}")
    return found
