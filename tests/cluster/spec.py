"""What a rig is made of: hosts, the rates of their links, racks."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from exec.errors import UsageError
from exec.workload import positive

MAX_HOSTS, BURST_NBYTES = 64, 16_384
MTU = 9_000
"""The largest packet: large ones cost the processor, which all hosts share, far less."""
CALM_BITS_PER_S = 800_000_000
"""The sum of all hosts' rates beyond which two cores no longer keep up (README.md)."""

_UNITS = {"kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class Spec:
    """Hosts on a switch, or in racks whose switches are joined by one uplink.

    Every link has its rate in either direction. ``slow_links`` are hosts whose link has another;
    ``burst_nbytes`` is what a link may send at once after a pause.
    """

    hosts: int
    rate_bits_per_s: int
    ranks_per_host: int = 1
    slow_links: tuple[tuple[int, int], ...] = ()
    racks: int = 1
    uplink_bits_per_s: int | None = None
    burst_nbytes: int = BURST_NBYTES

    def __post_init__(self) -> None:
        positive("hosts", self.hosts)
        positive("ranks-per-host", self.ranks_per_host)
        if self.hosts > MAX_HOSTS:
            raise UsageError(f"hosts must be at most {MAX_HOSTS}, got {self.hosts}")
        if self.racks not in (1, 2) or self.hosts % self.racks:
            raise UsageError(f"racks must be 1 or 2 and divide the {self.hosts} hosts, got {self.racks}")  # fmt: skip
        if (self.racks == 2) != (self.uplink_bits_per_s is not None):
            raise UsageError("uplink and 2 racks must be given together: it is what joins them")
        if not 10_000 <= self.burst_nbytes <= 1 << 24:
            raise UsageError(f"burst must be 10000 bytes (more than a packet) to 16 MiB, got {self.burst_nbytes}")  # fmt: skip
        names = [host for host, _ in self.slow_links]
        if len(set(names)) < len(names) or any(host >= self.hosts for host in names):
            raise UsageError(f"slow-link must name hosts 0 .. {self.hosts - 1}, each once, got {names}")  # fmt: skip

    def rate_of(self, host: int) -> int:
        """Return the rate of the link of ``host``, in bits per second."""
        return dict(self.slow_links).get(host, self.rate_bits_per_s)

    def rack_of(self, host: int) -> int:
        """Return the rack of ``host``: the first half of the hosts is in the first."""
        return host * self.racks // self.hosts

    @property
    def total_bits_per_s(self) -> int:
        """The sum of all hosts' rates."""
        return sum(map(self.rate_of, range(self.hosts)))

    def record(self) -> dict[str, Any]:
        """Return the rig as JSON can hold it."""
        return asdict(self)


def read_spec(record: dict[str, Any]) -> Spec:
    """Return the rig of which ``record`` was made by :meth:`Spec.record`."""
    slow = tuple((host, rate) for host, rate in record["slow_links"])
    return Spec(**(record | {"slow_links": slow}))


def parse_rate(option: str, text: str) -> int:
    """Return the bits per second that ``text`` spells, as tc does.

    >>> parse_rate("rate", "100mbit"), parse_rate("rate", "100Mbit")
    (100000000, 100000000)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", text.lower())
    bits = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if bits < 8_000:
        raise UsageError(f"{option} must be a rate of at least 8kbit, such as 100mbit, got {text!r}")  # fmt: skip
    return bits


def parse_slow_links(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return ``(host, bits_per_s)`` of each text.

    >>> parse_slow_links(["3=20mbit"])
    ((3, 20000000),)
    """
    found = []
    for text in texts:
        host, separator, rate = text.partition("=")
        if not separator or not (host.isascii() and host.isdigit()):
            raise UsageError(f"slow-link must be a host and a rate, such as 3=20mbit, got {text!r}")
        found.append((int(host), parse_rate("slow-link", rate)))
    return tuple(found)
