"""The forecast as a table for people and as a record for machines."""

from dataclasses import asdict
from statistics import fmean

from rich.console import Console
from rich.table import Table

from calibration.machine import Machine, Tier
from calibration.spelled import spelled, spelled_nodes
from exec.plan.schedule import Schedule
from exec.plan.strategy import LOCKSTEP, ROUNDS, SERVERS
from exec.plan.window import window_size
from exec.program.ops import Algorithm
from exec.program.staleness import staleness_record
from sim.forecast import Forecast
from sim.replicas import quantiles

TABLE_WIDTH = 170  # what the table needs; a narrower terminal wraps its lines


def forecast_record(
    machine: Machine, net: str, rows: list[Forecast], serial: Forecast, epoch_samples: int
) -> dict[str, object]:
    """Return ``rows`` for machines."""
    return {
        "machine": {"name": machine.name, "description": machine.description, "provenance": machine.provenance},
        "fabric": None if machine.fabric is None else machine.fabric.model_dump(mode="json", exclude_none=True),
        "net": net,
        "rows": [_row(row, serial, epoch_samples) for row in rows],
        "fastest": [
            {"nodes": nodes, "strategy": row.strategy, "mesh": str(row.mesh)}
            for nodes, row in fastest_by_nodes(rows).items()
        ],
    }  # fmt: skip


def _row(row: Forecast, serial: Forecast, epoch_samples: int) -> dict[str, object]:
    speedup, low, high = row.speedup_over(serial)
    return {
        "nodes": row.nodes,
        "ranks": row.ranks,
        "strategy": row.strategy,
        "mesh": {"dp": row.mesh.dp, "pp": row.mesh.pp, "tp": row.mesh.tp},
        "microbatches": row.options.num_microbatches,
        "schedule": row.options.schedule,
        "algorithm": row.options.algorithm,
        "overlap": row.options.overlap,
        "batch": row.global_batch,
        "engine": row.engine,
        "simulated": list(row.simulated),
        "step_time_s": row.step_time_s,
        "step_time_upper_s": row.upper_s,
        "step_time_interval_s": list(row.interval_s),
        "replicas": _replicas(row),
        "average_every": row.options.average_every if row.strategy in ROUNDS else None,
        "servers": row.options.servers if row.strategy in SERVERS else None,
        "staleness": staleness_record(row.arrivals) if row.arrivals else None,
        "epoch_time_s": row.epoch_time_s(epoch_samples),
        "samples_per_s": row.samples_per_s,
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "efficiency": speedup / row.ranks,
        "memory_bytes": row.memory_bytes,
        "memory": asdict(row.memory),
        "memory_by_schedule": {
            schedule.value: nbytes for schedule, nbytes in row.memory_by_schedule
        },
        "stages": [asdict(stage) for stage in row.stages],
        "imbalance": row.imbalance,
        "sync_batchnorm": row.options.sync_batchnorm,
        "breakdown": asdict(row.breakdown),
        "extrapolated": list(row.extrapolated),
    }


def _replicas(row: Forecast) -> dict[str, float] | None:
    """Return what the steps that were drawn took: the mean, and 5 and 95 %."""
    if not row.replicas_s:
        return None
    low_s, high_s = quantiles(row.replicas_s)
    return {"count": len(row.replicas_s), "mean_s": fmean(row.replicas_s), "p5_s": low_s, "p95_s": high_s}  # fmt: skip


def fastest_by_nodes(rows: list[Forecast]) -> dict[int, Forecast]:
    """Return the fastest row of each number of nodes."""
    found: dict[int, Forecast] = {}
    for row in rows:
        if row.nodes not in found or row.samples_per_s > found[row.nodes].samples_per_s:
            found[row.nodes] = row
    return found


def print_forecasts(
    out: Console, machine: Machine, net: str, rows: list[Forecast], serial: Forecast,
    epoch_samples: int, took_s: float,
) -> None:  # fmt: skip
    """Print ``rows`` as a table, which strategy wins where, and what was extrapolated."""
    has_checkpoints = any(row.breakdown.checkpoint_s for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("nodes", "strategy", "dpxppxtp", "micro", "batch", "step", "epoch", "speedup", "(90 %)",
                    "effic.", "compute", "comm", "bubble", "wait", "over", *["ckpt"] * has_checkpoints, "memory", ""):  # fmt: skip
        is_text = heading in ("strategy", "(90 %)", "")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    fastest = fastest_by_nodes(rows)
    for row in rows:
        speedup, low, high = row.speedup_over(serial)
        parts = list(asdict(row.breakdown).values())[: None if has_checkpoints else -1]
        wins = fastest[row.nodes] is row
        table.add_row(
            str(row.nodes), row.strategy, str(row.mesh), str(row.options.num_microbatches), str(row.global_batch),
            _step(row), _time(row.epoch_time_s(epoch_samples)), f"{speedup:.2f}", f"{low:.2f}-{high:.2f}",
            f"{speedup / row.ranks:.0%}", *(f"{part / row.step_time_s:.0%}" for part in parts),
            _memory(row.memory_bytes), ("fastest" if wins else "") + (" ~" if row.extrapolated else ""),
            style="bold" if wins else None,
        )  # fmt: skip
    out.print(f"{net} on {machine.name}")
    for section, source in _sources(machine, rows).items():
        out.print(f"  {section}: {source}")
    if (fabric := spelled(machine)) and any(row.nodes > 1 for row in rows):
        out.print(f"  fabric: {fabric}")
    for line in spelled_nodes(machine):
        out.print(f"  {line}")
    out.print(f"speedup over one rank at {_time(serial.step_time_s)} a step of "
              f"{serial.global_batch} samples\n")  # fmt: skip
    out.print(table)
    out.print()
    out.print(_advice(fastest, serial))
    if how := _reduced(rows):
        out.print(how)
    if cut := [row for row in rows if row.stages]:
        out.print(_cuts(max(cut, key=lambda row: row.samples_per_s)))
    if any(row.upper_s is not None for row in rows):
        out.print("a .. b: no closed form; the step takes at least a and at most b, and the other columns are those of a")  # fmt: skip
    for row in rows:
        if row.arrivals:
            stale = staleness_record(row.arrivals)
            out.print(f"staleness on {row.nodes} nodes: mean {stale['mean']:.2f}, median {stale['median']}, one in ten at least {stale['p90']}, most {stale['max']}")  # fmt: skip
        if (drawn := _replicas(row)) is not None:
            out.print(f"{row.strategy} on {row.nodes} nodes: {drawn['count']} steps drawn, mean {_time(drawn['mean_s'])}, 5 % {_time(drawn['p5_s'])}, 95 % {_time(drawn['p95_s'])}")  # fmt: skip
    for how in _simulated(rows):
        out.print(f"simulated: {how}")
    flags = sorted({flag for row in rows for flag in row.extrapolated})
    if flags:
        kinds: dict[str, list[str]] = {}
        for flag in flags:
            kinds.setdefault(flag.split(":")[0], []).append(flag)
        shown = (
            flags_of[0] if len(flags_of) == 1 else f"{kind} ({len(flags_of)} sizes)"
            for kind, flags_of in kinds.items()
        )  # fmt: skip
        out.print(f"~ beyond what was measured, or approximate: {'; '.join(shown)}")
    out.print(f"{len(rows)} forecasts in {took_s:.2f} s")


def print_memory(out: Console, rows: list[Forecast]) -> None:
    """Print what the memory of each row's fullest rank is for, and its sum under each schedule."""
    table = Table(box=None, pad_edge=False, header_style="bold", title="\nmemory of the rank that holds most", title_justify="left")  # fmt: skip
    for heading in ("nodes", "strategy", "dpxppxtp", "micro", "slots", "parameters", "gradients", "velocity", "activations",
                    "their grad.", "scratch", "messages", "sum", *Schedule):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "strategy" else "right", no_wrap=True)  # fmt: skip
    for row in rows:
        held = row.memory
        parts = (held.parameters_bytes, held.gradients_bytes, held.velocity_bytes, held.activations_bytes,
                 held.activation_gradients_bytes, held.scratch_bytes, held.collective_bytes, held.total_bytes)  # fmt: skip
        by_schedule = dict(row.memory_by_schedule)
        table.add_row(
            str(row.nodes), row.strategy, str(row.mesh), str(row.options.num_microbatches), str(held.num_slots),
            *map(_memory, parts), *(_memory(by_schedule[each]) if each in by_schedule else "" for each in Schedule),
        )  # fmt: skip
    out.print(table)


def _reduced(rows: list[Forecast]) -> str:
    """Say how replicas all-reduce, and on how many nodes, unless it is by the library everywhere."""
    nodes: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.mesh.dp > 1 and row.options.strategy in LOCKSTEP:
            in_window = row.options.algorithm is Algorithm.HIERARCHICAL and window_size(row.mesh, row.options) > 1  # fmt: skip
            name = f"{row.options.algorithm}{', in shared windows' * in_window}"
            nodes.setdefault(name, {})[str(row.nodes)] = None
    if not set(nodes) - {Algorithm.LIBRARY}:
        return ""
    return "all-reduce of replicas, by nodes: " + "; ".join(f"{name} ({', '.join(each)})" for name, each in nodes.items())  # fmt: skip


def _cuts(row: Forecast) -> str:
    """Say where the stages of ``row`` begin, and how even they are."""
    layers = ", ".join(stage.first_layer for stage in row.stages)
    return f"stages of {row.mesh} begin at {layers}; the costliest computes {row.imbalance:.2f} times the mean"  # fmt: skip


def _simulated(rows: list[Forecast]) -> list[str]:
    """Return by what rows were simulated: how many ranks by arrays, and why others by events."""
    by_arrays = [
        row.ranks for row in rows if any(how.startswith("arrays") for how in row.simulated)
    ]
    found = []
    if by_arrays:
        least, most = min(by_arrays), max(by_arrays)
        found.append(f"arrays over {most if least == most else f'{least} to {most}'} ranks")
    by_events: dict[str, list[int]] = {}
    for row in rows:
        for how in row.simulated:
            if how.startswith("events"):
                by_events.setdefault(how, []).append(row.ranks)
    return found + [f"{how} (of {', '.join(map(str, sorted(set(ranks))))} ranks)" for how, ranks in by_events.items()]  # fmt: skip


def _sources(machine: Machine, rows: list[Forecast]) -> dict[str, str]:
    """Return where the numbers come from that these rows use."""
    sources = {"compute": machine.compute.source if machine.compute else "none"}
    tiers = {Tier.NODE: any(row.ranks > row.nodes for row in rows), Tier.NETWORK: any(row.nodes > 1 for row in rows)}  # fmt: skip
    for tier, is_used in tiers.items():
        if is_used and tier in machine.links:
            sources[tier] = machine.links[tier].message.source
    if machine.storage is not None and any(row.breakdown.checkpoint_s for row in rows):
        sources["storage"] = machine.storage.source
    return sources


def _advice(fastest: dict[int, Forecast], serial: Forecast) -> str:
    """Say which strategy wins where, and how many nodes pay."""
    runs: list[tuple[str, int, int]] = []
    for nodes, row in fastest.items():
        if runs and runs[-1][0] == row.strategy:
            runs[-1] = (runs[-1][0], runs[-1][1], nodes)
        else:
            runs.append((row.strategy, nodes, nodes))
    wins = ", ".join(
        f"{name} at {low}" + (f" to {high}" if high > low else "") for name, low, high in runs
    )
    top = max(fastest.values(), key=lambda row: row.samples_per_s)
    speedup = top.speedup_over(serial)[0]
    at_most = "at most " * (top.upper_s is not None)
    if speedup <= 1.0:
        return (
            f"fastest by nodes: {wins}. No number of these nodes is faster than one rank, with "
            f"all-reduce {top.options.algorithm}."
        )
    return (
        f"fastest by nodes: {wins}. Fastest of all: {top.strategy} {top.mesh} on {top.nodes} "
        f"node{'s' * (top.nodes > 1)}, {at_most}{speedup:.2f} times one rank."
    )


def _step(row: Forecast) -> str:
    """Return the step time, or where there is no closed form its bounds."""
    if row.upper_s is None:
        return _time(row.step_time_s)
    return f"{_time(row.step_time_s)} .. {_time(row.upper_s)}"


def _time(seconds: float) -> str:
    if seconds >= 600:
        return f"{seconds / 3600:.3g} h"
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _memory(nbytes: int) -> str:
    # 1000 MiB and more would need an exponent.
    return f"{nbytes / 2**20:.3g} MiB" if nbytes < 999.5 * 2**20 else f"{nbytes / 2**30:.3g} GiB"
