"""Speed: the committed records of trainer, collectives, simulator and start-up, beside what must hold.

A file that is not there yet leaves its goals open: nothing is told of it but that.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from paper.results import MEASUREMENTS, Record, read_records

PEERS_FILE = Path(__file__).parent / "peers.json"
TABLES = ("trainer", "collectives", "simulator", "startup")
HOST = "2core-epyc"
SMALL, MIDDLE, LARGE = "128-50-26", "784-512-512-26", "784-2048-2048-2048-26"
MOST_NBYTES = 10**9


@dataclass(frozen=True, slots=True)
class Goal:
    """What must hold of the rows of one table: a bound on ``spread`` of the row that is meant.

    ``limit`` says of that row how near it is to what the machine can do at all, "" where nothing does.
    """

    table: str
    what: str
    bound: float
    unit: str
    is_least: bool
    chosen: Callable[[Record], bool]
    spread: Callable[[Record], Record]
    limit: Callable[[Record], str]


def _trainer(net: str, batch: int, key: str, bound: float) -> Goal:
    is_speed = key == "speed_over_pytorch"
    what = "speed over PyTorch eager" if is_speed else "time over the matrix products alone"  # fmt: skip
    return Goal(
        "trainer", f"{what}: {net}, batch {batch}", bound, "times", is_speed,
        lambda row: (row["kind"], row["net"], row.get("batch")) == ("trainer", net, batch),
        lambda row: dict(row[key]),
        lambda row: f"products alone: {row['speed_over_pytorch']['median'] * row['time_over_products']['median']:.3g} times" if is_speed else "1",
    )  # fmt: skip


def _together(net: str, batch: int, key: str, bound: float) -> Goal:
    is_speed = key == "speed_over_ddp"
    what = "two ranks, speed over DDP (gloo)" if is_speed else "two ranks, speed over two that never meet"  # fmt: skip
    return Goal(
        "trainer", f"{what}: {net}, batch {batch}", bound, "times", True,
        lambda row: (row["kind"], row["net"], row.get("batch_per_rank")) == ("two_ranks", net, batch),
        lambda row: dict(row[key]),
        lambda row: f"never meeting: {row['speed_over_ddp']['median'] / row['speed_over_apart']['median']:.3g} times" if is_speed else "1",
    )  # fmt: skip


def _reduction(size: str) -> Goal:
    return Goal(
        "collectives", f"two ranks, reduction of {size}, speed over MPI_Allreduce", 3.5, "times", True,
        lambda row: row["kind"] == "collective" and row["size"] == size and row["ranks"] == 2,
        lambda row: dict(row["mpi_over"]["window"]),
        lambda row: f"caches and memory: {row['mpi_over']['window']['median'] * row['over_limit']['median']:.3g} times",
    )  # fmt: skip


def _world(what: str, case: str, ranks: int, bound_s: float) -> Goal:
    return Goal(
        "simulator", what, bound_s, "s of CPU", False,
        lambda row: row["kind"] == "large_world" and row["case"].startswith(case) and row["ranks"] == ranks,
        lambda row: dict(row["seconds"]),
        lambda row: f"NumPy alone: {row['floor_seconds']['median']:.2g} s" if "floor_seconds" in row else "",
    )  # fmt: skip


def _events(what: str, case: str) -> Goal:
    return Goal(
        "simulator", f"events, messages a second: {what}", 200_000, "a second", True,
        lambda row: (row["kind"], row.get("case"), row.get("what")) == ("events", case, "sim.simulate"),
        lambda row: dict(row["messages_per_s"]),
        lambda row: f"bare SimPy: {row['timeouts_per_s']:,.0f} timeouts",
    )  # fmt: skip


def _sweep(nets: tuple[str, str], what: str, told: str, bound_s: float) -> Goal:
    return Goal(
        "simulator", f"a sweep of 10,000 points{told}: {' and '.join(nets)}", bound_s, "s of CPU", False,
        lambda row: row["kind"] == "sweep" and row["what"] == what and tuple(row["nets"]) == nets,
        lambda row: dict(row["cpu_s"]), lambda _: "",
    )  # fmt: skip


def _start(options: str, bound_s: float) -> Goal:
    return Goal(
        "startup", f"`sim.predict {options}` with intervals, the whole process", bound_s, "s", False,
        lambda row: row.get("what") == f"sim.predict {options}",
        lambda row: dict(row["wall_s"]),
        lambda row: f"bare Python: {row['wall_s']['median'] / row['wall_over_floor']['median']:.2g} s",
    )  # fmt: skip


GOALS = (
    _trainer(SMALL, 32, "speed_over_pytorch", 8),
    _trainer(SMALL, 256, "speed_over_pytorch", 2.2),
    _trainer(MIDDLE, 256, "time_over_products", 1.1),
    _trainer(LARGE, 256, "time_over_products", 1.1),
    _together(SMALL, 32, "speed_over_ddp", 30),
    _together(SMALL, 256, "speed_over_ddp", 8),
    _together(MIDDLE, 256, "speed_over_ddp", 1.5),
    _together(LARGE, 256, "speed_over_ddp", 1.3),
    _together(SMALL, 32, "speed_over_apart", 0.95),
    _together(SMALL, 256, "speed_over_apart", 0.95),
    _together(MIDDLE, 256, "speed_over_apart", 0.95),
    _together(LARGE, 256, "speed_over_apart", 0.95),
    _reduction("2.7 MB"),
    _reduction("40 MB"),
    _world("a step of ResNet-18 on 1,024 ranks, message by message", "ResNet-18, data, ring", 1024, 0.1),
    _world("the same on 4,096 ranks", "ResNet-18, data, ring", 4096, 0.5),
    _world("a hybrid 16 x 16 x 16 on 4,096 ranks, the library's all-reduces", "hybrid, library", 4096, 2.0),
    _world("the same, rings message by message", "hybrid, ring, 1 a node", 4096, 2.0),
    _world("the same, rings, 16 ranks on a node", "hybrid, ring, 16 a node", 4096, 2.0),
    _world("the same, halving and doubling, 16 ranks on a node", "hybrid, halving_doubling, 16 a node", 4096, 2.0),
    _world("the same, hierarchical, 16 ranks on a node", "hybrid, hierarchical, 16 a node", 4096, 2.0),
    _world("1,024 ranks under noise, 200 draws, an MLP", "MLP, data, ring, 200 draws", 1024, 5.0),
    _world("the same, ResNet-18", "ResNet-18, data, ring, 200 draws", 1024, 5.0),
    Goal(
        "simulator", "the most memory of any of these", MOST_NBYTES / 1e6, "MB", False,
        lambda row: row["kind"] == "memory", lambda row: dict(row["mb"]), lambda _: "",
    ),
    Goal(
        "simulator", "events: messages a second, a ring of 256", 200_000, "a second", True,
        lambda row: (row["kind"], row.get("what"), row.get("ranks")) == ("ring", "events", 256),
        lambda row: dict(row["messages_per_s"]),
        lambda row: f"bare SimPy: {row['timeouts_per_s']:,.0f} timeouts",
    ),
    _events("a data-parallel step of 256, sums that take time", "data-parallel step of 256, sums take time"),
    _events("10 steps of a hybrid 4 x 4 x 4", "hybrid 4x4x4, 10 steps"),
    _events("10 steps of 64 workers and a server", "server, 64 workers, 10 steps"),
    _events("64 workers and an asynchronous server", "async_server, 64 workers, 2,560 tickets"),
    _sweep((SMALL, "cnn"), "together", " in closed form", 1.0),
    _sweep(("resnet18", MIDDLE), "together", " in closed form", 1.0),
    _sweep(("resnet18", MIDDLE), "together, intervals", ", with intervals", 1.0),
    _start("--nodes 64", 0.6),
    _start("--nodes 64 --net resnet18 --batch 256", 0.6),
    _start("--nodes 65536 --net 784-512-512-26", 2.0),
    _start("--nodes 65536 --net resnet18 --batch 65536", 2.0),
)  # fmt: skip
"""What the tool is held to, in the order of the tables."""


def speed_numbers(folder: Path = MEASUREMENTS) -> Record:
    """Return the rows of every table, each goal with what was measured, and what others took.

    Raises:
        DataError: a file's first record is no provenance.
    """
    found = {name: _table(folder / f"{name}-{HOST}.jsonl") for name in TABLES}
    return {
        "tables": found,
        "pending": [name for name, table in found.items() if table["provenance"] is None],
        "goals": [_judged(goal, found[goal.table]["rows"]) for goal in GOALS],
        "peers": json.loads(PEERS_FILE.read_text(encoding="utf-8")),
    }


def _table(path: Path) -> Record:
    if not path.is_file():
        return {"provenance": None, "rows": []}
    head, rows = read_records(path)
    timeouts = [row for row in rows if row["kind"] == "timeouts"]
    if timeouts:
        for row in rows:
            row["timeouts_per_s"] = timeouts[0]["messages_per_s"]["median"]
    return {"provenance": head, "rows": [*rows, *_memory(rows)]}


def _memory(rows: list[Record]) -> Iterator[Record]:
    """Yield a row of the most memory that any world took."""
    most = [row["peak_nbytes"] / 1e6 for row in rows if row["kind"] == "large_world"]
    if most:
        yield {"kind": "memory", "mb": {"median": max(most), "low": max(most), "high": max(most)}}


def _judged(goal: Goal, rows: list[Record]) -> Record:
    """Return a goal with what was measured, None if nothing was."""
    row = next((row for row in rows if goal.chosen(row)), None)
    measured = goal.spread(row) if row else None
    is_met = None
    if measured:
        is_met = (measured["median"] >= goal.bound) if goal.is_least else (measured["median"] <= goal.bound)  # fmt: skip
    return {
        "table": goal.table, "what": goal.what, "bound": goal.bound, "unit": goal.unit,
        "is_least": goal.is_least, "measured": measured, "is_met": is_met, "limit": goal.limit(row) if row else "",
    }  # fmt: skip
