"""Large worlds message by message: CPU seconds and memory of the simulator, by ranks.

- One data-parallel step of ResNet-18, gradients all-reduced by a ring in buckets.
- A hybrid of pipeline stages, shards and replicas, on dense layers, by each algorithm, with one rank
  and with 16 ranks a node: there messages meet on links, and events tell it by lumps.
- A data-parallel step under noise, 200 draws of it at once.

The plan and its expansion are part of the time. Memory is what the process grows by.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from time import process_time
from typing import Any

from peak import peak_growth_nbytes
from ring import flat_machine
from rounds import interleave, spread

from calibration.machine import Tier
from exec.network.network import mlp
from exec.network.parse import parse_net
from exec.noise import Distribution, Noise
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.program.program import Program
from exec.workload import Workload
from sim.arrays.simulate import simulate_arrays
from sim.costs import Costs
from sim.engine import Engine
from sim.engines import simulated
from sim.jitter import paces

NUM_REPLICAS = 200
RING = PlanOptions(algorithm=Algorithm.RING)
_MEETING = (
    Algorithm.RING, Algorithm.HALVING_DOUBLING, Algorithm.RECURSIVE_DOUBLING, Algorithm.HIERARCHICAL,
)  # fmt: skip
_NOISE = Noise(Distribution.LOGNORMAL, 0.05)


def large_world_records(rounds: int) -> list[dict[str, Any]]:
    """Measure every case, in turn."""
    cases = {f"{what}, {ranks} ranks": (what, ranks, run) for what, ranks, run in _cases()}
    returned = interleave({name: _timed(run) for name, (_, _, run) in cases.items()}, range(rounds))
    return [
        {
            "kind": "large_world",
            "what": name,
            "case": cases[name][0],
            "ranks": cases[name][1],
            "seconds": asdict(spread([cpu_s for cpu_s, _, _ in turns])),
            "peak_nbytes": max(nbytes for _, nbytes, _ in turns),
            "answer_s": turns[-1][2][0],
            "simulated": turns[-1][2][1],
        }
        for name, turns in returned.items()
    ]


def _cases() -> Iterator[tuple[str, int, Callable[[], tuple[float, str]]]]:
    for ranks in (64, 256, 1024, 4096):
        yield "ResNet-18, data, ring", ranks, lambda ranks=ranks: _step("resnet18", ranks)
    for side in (4, 8, 16):
        yield "hybrid, library", side**3, lambda side=side: _hybrid(side, Algorithm.LIBRARY, 1)
    yield "hybrid, library, 16 a node", 4096, lambda: _hybrid(16, Algorithm.LIBRARY, 16)
    for algorithm in _MEETING:
        for per_node in (1, 16):
            yield (
                f"hybrid, {algorithm}, {per_node} a node", 4096,
                lambda by=algorithm, per_node=per_node: _hybrid(16, by, per_node),
            )  # fmt: skip
    yield f"MLP, data, ring, {NUM_REPLICAS} draws", 1024, lambda: _noisy("784-512-26")
    yield f"ResNet-18, data, ring, {NUM_REPLICAS} draws", 1024, lambda: _noisy("resnet18")


def _step(net: str, ranks: int) -> tuple[float, str]:
    mesh = Mesh(ranks)
    program = plan_step(Workload(parse_net(net), 8 * ranks), mesh, RING)
    return _chosen(mesh, program)


def _hybrid(side: int, algorithm: Algorithm, per_node: int) -> tuple[float, str]:
    mesh = Mesh(side, side, side)
    workload = Workload(mlp(*[1024] * (2 * side), 1024), 32 * side * side)
    options = PlanOptions(side, algorithm=algorithm, ranks_per_node=per_node)
    return _chosen(mesh, plan_step(workload, mesh, options), per_node)


def _noisy(net: str) -> tuple[float, str]:
    mesh = Mesh(1024)
    program = plan_step(Workload(parse_net(net), 8 * mesh.dp), mesh, RING)
    drawn = paces(_NOISE, 0, mesh.dp, 1, NUM_REPLICAS)
    found = simulate_arrays(program, Costs(flat_machine(), mesh, 1), one_lane=True, paces=drawn)
    return float(found.step_times_s.mean()), f"arrays over {mesh.dp} ranks"


def _chosen(mesh: Mesh, program: Program, per_node: int = 1) -> tuple[float, str]:
    """Return the step time, and which engine told it; messages inside a node are as slow as outside."""
    machine = flat_machine()
    links = dict.fromkeys(Tier, machine.links[Tier.NETWORK])
    costs = Costs(machine.model_copy(update={"links": links}), mesh, per_node)
    times = simulated(program, costs, Engine.SIMULATE, one_lane=True)
    return times.step_time_s, "; ".join(times.simulated)


def _timed(
    run: Callable[[], tuple[float, str]],
) -> Callable[[object], tuple[float, int, tuple[float, str]]]:
    """Return a turn that returns the CPU seconds of ``run``, its memory and its answer."""

    def turn(_: object) -> tuple[float, int, tuple[float, str]]:
        start_s = process_time()
        answer = run()
        cpu_s = process_time() - start_s
        return cpu_s, peak_growth_nbytes(run), answer

    return turn
