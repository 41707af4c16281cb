"""Golden programs: the text of a few plans, to be reviewed like prose.

After a change that is meant to change them, write them anew and read the diff:

    python tests/golden/test_golden_programs.py
"""

from pathlib import Path

import pytest

from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.program.parse import parse_program
from exec.program.program import Program
from exec.program.text import format_program
from exec.workload import Workload
from tests.exec.random_plans import small_residual

FOLDER = Path(__file__).parent


def plan(net: str, batch: int, mesh: Mesh, **options: object) -> Program:
    """Return the expanded program of ``net`` on ``mesh``."""
    widths = tuple(map(int, net.split("-")))
    return expand(plan_step(Workload(mlp(*widths), batch), mesh, PlanOptions(**options)))  # type: ignore[arg-type]  # by name


def residual(batch: int, mesh: Mesh, **options: object) -> Program:
    """Return the expanded program of a small residual network on ``mesh``."""
    return expand(plan_step(Workload(small_residual(), batch), mesh, PlanOptions(**options)))  # type: ignore[arg-type]  # by name


def epoch(
    strategy: Strategy, *, momentum: bool = False, ranks: int = 3, **options: object
) -> list[Program]:
    """Return the programs of an epoch of 20 samples in batches of 8, for 3 ranks unless given."""
    workload = Workload(mlp(3, 2), 8, has_momentum=momentum)
    chosen = PlanOptions(strategy=strategy, **options)  # type: ignore[arg-type]  # by name
    segments = plan_epoch(workload, Mesh(dp=ranks), chosen, 20)
    return list(dict.fromkeys(expand(segment.program) for segment in segments))


def golden_epochs() -> dict[str, list[Program]]:
    """Return, for each scheme by which replicas talk, the different programs of an epoch."""
    return {
        "averaging_every_2": epoch(Strategy.AVERAGING, average_every=2),
        "averaging_ring": epoch(Strategy.AVERAGING, algorithm=Algorithm.RING)[:1],
        "master_round_trip_every_2": epoch(Strategy.MASTER_ROUND_TRIP, average_every=2)[:2],
        "master_broadcast": epoch(Strategy.MASTER_BROADCAST)[:1],
        "server": epoch(Strategy.SERVER),
        "server_2_of_4_momentum": epoch(Strategy.SERVER, momentum=True, ranks=4, servers=2)[:1],
        "async_server_2_of_4": epoch(Strategy.ASYNC_SERVER, ranks=4, servers=2),
        "async_server": epoch(Strategy.ASYNC_SERVER)[:1],
        "shared_lock": epoch(Strategy.SHARED_LOCK),
        "shared_windows": epoch(Strategy.SHARED_WINDOWS)[:1],
        "hogwild": epoch(Strategy.HOGWILD)[:1],
    }


def golden_programs() -> dict[str, Program]:
    """Return every golden program by the name of its file."""
    return {
        "serial": plan("6-5-4", 8, Mesh()),
        "data_4_ranks_ring": plan("6-5-4", 10, Mesh(dp=4), algorithm=Algorithm.RING),
        "data_2_ranks_overlapped_buckets": plan(
            "6-5-4", 8, Mesh(dp=2), overlap=True, bucket_nbytes=1
        ),
        "data_5_ranks_recursive_doubling": plan(
            "6-4", 5, Mesh(dp=5), algorithm=Algorithm.RECURSIVE_DOUBLING
        ),
        "data_6_ranks_binomial_tree": plan("6-4", 6, Mesh(dp=6), algorithm=Algorithm.BINOMIAL_TREE),
        "data_6_ranks_hierarchical": plan(
            "6-4", 6, Mesh(dp=6), algorithm=Algorithm.HIERARCHICAL, ranks_per_node=2, shares_memory=False
        ),
        "hybrid_4x1x2_hierarchical": plan(
            "6-5-4", 8, Mesh(4, 1, 2), algorithm=Algorithm.HIERARCHICAL, ranks_per_node=4, shares_memory=False
        ),
        "data_6_ranks_hierarchical_windows": plan(
            "6-4", 6, Mesh(dp=6), algorithm=Algorithm.HIERARCHICAL, ranks_per_node=3
        ),
        "data_3_ranks_shared_window": plan(
            "6-5-4", 9, Mesh(dp=3), algorithm=Algorithm.SHARED_WINDOW
        ),
        "hybrid_2x2x1_shared_window": plan(
            "6-5-4", 8, Mesh(2, 2), num_microbatches=2, algorithm=Algorithm.SHARED_WINDOW
        ),
        "pipeline_2_stages_1f1b": plan("6-5-4", 7, Mesh(pp=2), num_microbatches=3),
        "pipeline_2_stages_gpipe": plan(
            "6-5-4", 4, Mesh(pp=2), num_microbatches=2, schedule=Schedule.GPIPE
        ),
        "tensor_2_ranks": plan("6-5-4-3", 4, Mesh(tp=2)),
        "residual_serial": residual(4, Mesh()),
        "residual_data_2_ranks_sync_batchnorm": residual(4, Mesh(2), sync_batchnorm=True),
        "residual_pipeline_2_stages": residual(4, Mesh(pp=2), num_microbatches=2),
        "residual_tensor_2_ranks": residual(4, Mesh(tp=2)),
        "residual_krizhevsky_2_ranks": residual(4, Mesh(tp=2), strategy=Strategy.KRIZHEVSKY),
        "hybrid_2x2x2_halving_doubling": plan(
            "6-5-4", 8, Mesh(2, 2, 2), num_microbatches=2, algorithm=Algorithm.HALVING_DOUBLING
        ),
    } | {f"{name}_{i}": program for name, epoch in golden_epochs().items() for i, program in enumerate(epoch, 1)}  # fmt: skip


@pytest.mark.parametrize("name", golden_programs())
def test_program_reads_as_its_golden_file(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert format_program(golden_programs()[name]) == text


@pytest.mark.parametrize("name", golden_programs())
def test_golden_file_parses_to_its_program(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert parse_program(text) == golden_programs()[name]


def test_every_golden_file_has_its_program() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(golden_programs())


if __name__ == "__main__":
    for stem, program in golden_programs().items():
        (FOLDER / f"{stem}.txt").write_text(format_program(program), encoding="utf-8")
