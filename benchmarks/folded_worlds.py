"""Worlds that only events can tell, of ranks that cannot differ: one of each kind is simulated.

Replicas of a pipeline of eight stages whose messages meet on links: CPU seconds by ranks, which hardly
grow, for the events are those of one replica. The plan is part of the time. Memory is what the process
grows by.
"""

from dataclasses import asdict
from functools import partial
from time import process_time
from typing import Any

from peak import peak_growth_nbytes
from ring import flat_machine
from rounds import interleave, spread

from exec.network.network import mlp
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.costs import Costs
from sim.engines import Engine, simulated
from sim.result import StepTimes

STAGES = 8
RANKS = (64, 256, 1024, 4096)


def folded_world_records(rounds: int) -> list[dict[str, Any]]:
    """Measure each number of ranks, in turn."""
    contenders = {ranks: partial(_timed, ranks) for ranks in RANKS}
    returned = interleave(contenders, range(rounds))
    return [
        {
            "kind": "large_world", "what": f"pipelines of {STAGES}, {ranks} ranks",
            "case": f"pipelines of {STAGES}", "ranks": ranks,
            "seconds": asdict(spread([cpu_s for cpu_s, _ in turns])),
            "peak_nbytes": peak_growth_nbytes(partial(_step, ranks)),
            "answer_s": turns[-1][1].step_time_s, "simulated": turns[-1][1].simulated[0],
        }
        for ranks, turns in returned.items()
    ]  # fmt: skip


def _timed(ranks: int, _: object) -> tuple[float, StepTimes]:
    start_s = process_time()
    found = _step(ranks)
    return process_time() - start_s, found


def _step(ranks: int) -> StepTimes:
    mesh = Mesh(ranks // STAGES, STAGES, 1)
    workload = Workload(mlp(*[256] * (2 * STAGES + 1)), 32 * mesh.dp)
    program = plan_step(workload, mesh, PlanOptions(STAGES))
    return simulated(program, Costs(flat_machine(), mesh, 1), Engine.SIMULATE, one_lane=False)
