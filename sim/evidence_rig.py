"""Evidence of a cluster's campaign: trainings whose compute is known, so that messages are judged.

A campaign is a folder (its README is that of the rig): ``runs.jsonl`` has one record of kind
*case* for each training, the Machines beside it what was calibrated on two hosts, and the
Machine of the padded compute. A forecast is told the rig as a user would tell it: the fabric, the
slow link, the slow rank, the noise.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from calibration.fabric import FabricKind, FabricModel, LinkSpeed
from calibration.machine import Machine, read_machine
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions, parse_every
from exec.plan.schedule import Schedule
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.evidence import Judged
from sim.forecast import Engine, forecast
from sim.noisy import with_noise
from sim.replicas import Draws

Record = dict[str, Any]
_BITS = 8
_CALIBRATED_HOSTS = 2
_REPLICAS = 40


def campaign_machine(folder: Path, record: Record) -> Machine:
    """Return the Machine that forecasts the case ``record`` of the campaign in ``folder``."""
    links = "links.json" if record["ranks_per_node"] == 1 else "tiers.json"
    machine = _combined(folder / "padded.json", folder / links)
    machine = machine.model_copy(update={"fabric": fabric_of(record["rig"])})
    return machine if record["noise"] is None else with_noise(machine, record["noise"])


@lru_cache(maxsize=8)
def _combined(compute: Path, links: Path) -> Machine:
    return read_machine(compute).combined_with(read_machine(links))


def fabric_of(rig: Record) -> FabricModel | None:
    """Return how a rig's hosts are joined, None if by a star of equal links."""
    links = {
        f"node{host}": LinkSpeed(share=bits_per_s / rig["rate_bits_per_s"])
        for host, bits_per_s in rig["slow_links"]
    }
    if rig["racks"] > 1:
        uplink = rig["uplink_bits_per_s"] / _BITS
        return FabricModel(kind=FabricKind.TREE, racks=rig["racks"], uplink_bytes_per_s=uplink, links=links)  # fmt: skip
    return FabricModel(links=links) if links else None


def options_of(strategy: Strategy, given: dict[str, Any]) -> PlanOptions:
    """Return the plan's options that ``given`` spells as exec.train does, without dashes before."""
    return PlanOptions(
        num_microbatches=int(given.get("microbatches", 1)),
        schedule=Schedule(given.get("schedule", Schedule.ONE_F_ONE_B)),
        bucket_nbytes=int(given.get("bucket-kib", 4096)) << 10,
        overlap=bool(given.get("overlap", False)),
        algorithm=Algorithm(given.get("algorithm", Algorithm.LIBRARY)),
        strategy=strategy,
        average_every=parse_every(str(given.get("average-every", 1))),
        servers=int(given.get("servers", 1)),
        ranks_per_node=int(given.get("ranks-per-node", 1)),
    )


def judge_case(record: Record, machine: Machine, engine: Engine = Engine.SIMULATE) -> Judged:
    """Return the case of a ``record`` of a campaign."""
    strategy = Strategy(record["strategy"])
    # Campaigns from before there were windows on several nodes do not say that there were none.
    in_window = record.get("window_ranks", 1) > 1
    options = replace(options_of(strategy, record["options"]), shares_memory=in_window)
    answer = forecast(
        machine, Workload(parse_net(record["net"]), record["batch"]), Mesh(**record["mesh"]),
        options, ranks_per_node=record["ranks_per_node"],
        engine=engine, epoch_samples=record["epoch_samples"],
        slow=tuple((int(rank), factor) for rank, factor in record["slow"].items()),
        draws=Draws(_REPLICAS) if record["noise"] is not None else None,
    )  # fmt: skip
    measured_s, repeats_s = record["step_time_s"], record["repeats_s"]
    group = f"{record['variant']}, {record['net']}, batch {record['batch']}"
    return Judged(
        record["name"], group, measured_s, answer.step_time_s, *answer.interval_s,
        (max(repeats_s) - min(repeats_s)) / measured_s, extrapolation=record["hosts"] / _CALIBRATED_HOSTS,
        what=strategy, ranks=record["ranks"], given_s=answer.breakdown.compute_s,
    )  # fmt: skip
