"""The command line's words for a fabric and for slow links: ``tree:racks=2,uplink=200Mbit``."""

import re
from collections.abc import Sequence

from pydantic import ValidationError

from calibration.fabric import FabricModel, LinkSpeed
from calibration.machine import Machine
from exec.errors import UsageError

_UNITS = {"bit": 0.125, "B/s": 1.0}
_FORM = "star, tree:racks=2,uplink=200Mbit, tree:per-rack=16,oversubscription=4 or torus:4x4"


def parse_rate(name: str, text: str) -> float:
    """Return the bytes/s that ``text`` spells, such as ``200Mbit`` or ``12.5GB/s``.

    >>> parse_rate("uplink", "200Mbit"), parse_rate("uplink", "200mbit"), parse_rate("uplink", "1.5GB/s")
    (25000000.0, 25000000.0, 1500000000.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGTmg]?)(bit|B/s)", text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{name} must be a rate above 0, such as 200Mbit or 12.5GB/s, got {text!r}")  # fmt: skip
    return float(match[1]) * 10.0 ** (3 * " KMGT".index(match[2].upper() or " ")) * _UNITS[match[3]]


def parse_fabric(text: str) -> FabricModel:
    """Return the fabric that ``text`` spells.

    Raises:
        UsageError: it spells none; the message says what is wrong.
    """
    kind, _, rest = text.partition(":")
    section: dict[str, object] = {}
    for each in rest.split(",") if rest else ():
        key, is_pair, value = each.partition("=")
        if not is_pair and kind == "torus" and re.fullmatch(r"\d{1,6}(x\d{1,6})*", key):
            found: object = tuple(map(int, key.split("x")))
            key = "dims"
        elif key in ("racks", "per-rack") and re.fullmatch(r"\d{1,9}", value):
            key, found = key.replace("per-rack", "nodes_per_rack"), int(value)
        elif key == "uplink":
            key, found = "uplink_bytes_per_s", parse_rate("fabric's uplink", value)
        elif key == "oversubscription" and re.fullmatch(r"\d+(\.\d+)?", value):
            found = float(value)
        elif key == "hop-us" and re.fullmatch(r"\d+(\.\d+)?", value):
            key, found = "hop_latency_s", float(value) * 1e-6
        else:
            raise UsageError(f"fabric must be {_FORM}, each with hop-us=1 if need be, got {text!r}")
        if key in section:
            raise UsageError(f"fabric must say each thing once, got {text!r}")
        section[key] = found
    try:
        return FabricModel.model_validate({"kind": kind, **section}, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        where = "" if not first["loc"] else f"{first['loc'][0]}: "
        reason = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"fabric must be {_FORM}, got {text!r}: {where}{reason}") from error


def parse_slow_links(texts: Sequence[str], nodes: int) -> dict[str, LinkSpeed]:
    """Return the links that ``texts`` name, such as ``3=0.2`` (a fifth of the rate) or ``3=20Mbit``.

    >>> parse_slow_links(["3=0.2"], 4)["node3"].share
    0.2
    """
    found: dict[str, LinkSpeed] = {}
    for text in texts:
        node, _, speed = text.partition("=")
        if not re.fullmatch(r"\d{1,9}", node) or not speed:
            raise UsageError(f"slow-link must be a node and a speed, such as 3=0.2 or 3=20Mbit, got {text!r}")  # fmt: skip
        name = f"node{int(node)}"
        if int(node) >= nodes or name in found:
            raise UsageError(f"slow-link must name nodes 0 .. {nodes - 1}, each once, got {text!r}")
        if re.fullmatch(r"\d+(\.\d+)?", speed) is None:
            found[name] = LinkSpeed(bytes_per_s=parse_rate("slow-link", speed))
        elif 0 < float(speed) <= 1:
            found[name] = LinkSpeed(share=float(speed))
        else:
            raise UsageError(f"slow-link must have a share above 0 and at most 1, or a rate, got {text!r}")  # fmt: skip
    return found


def wired(machine: Machine, fabric: str | None, slow_links: Sequence[str], nodes: int) -> Machine:
    """Return ``machine`` with the fabric and the slow links that the command line names.

    What the Machine says of single links stays only with its own fabric.
    """
    links = parse_slow_links(slow_links, nodes)
    if fabric is None and not links:
        return machine
    model = (machine.fabric or FabricModel()) if fabric is None else parse_fabric(fabric)
    return machine.model_copy(update={"fabric": model.with_links(links)})


def ordinary(machine: Machine) -> Machine:
    """Return ``machine`` with nodes that all compute alike: speedups are over one of those."""
    return machine.model_copy(update={"node_slowness": {}})
