"""What the benchmark of events simulates: rings, servers, hybrids, racks, alone and under noise."""

from dataclasses import dataclass, replace
from functools import partial

from ring import flat_machine, ring_program
from simgrid_ring import ROUNDS

from calibration.fabric import FabricKind, FabricModel
from calibration.machine import KernelModel, Machine
from exec.network.network import Network, mlp
from exec.noise import Array, Distribution, Noise
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm, Kernel, Lane, Op, Receive, Repeat, Send, Wait
from exec.program.peers import AnyRank, At, Part
from exec.program.program import Program, Role
from exec.workload import Workload
from sim.jitter import paces

SUM_S = 1e-6  # of a sum in the cases that are no rings
TIMES = 10  # how often steps are done, so that what is done once counts little
SERVED_NBYTES = 1_000_000
_NOISE = Noise(Distribution.LOGNORMAL, 0.1)


@dataclass(frozen=True, slots=True)
class Case:
    """A program and the machine it is simulated on; ``pattern`` is what SimPy and SimGrid do of it."""

    name: str
    program: Program
    machine: Machine
    pattern: str = ""
    is_noisy: bool = False

    @property
    def paces(self) -> Array | None:
        """How the turns of the ranks differ."""
        ranks = self.program.mesh.world_size
        return paces(_NOISE, 0, ranks, 64)[0] if self.is_noisy else None


def cases(large: bool) -> list[Case]:
    """Return what is simulated."""
    flat = flat_machine()
    sums = _with_sums(flat)
    racks = FabricModel(kind=FabricKind.TREE, racks=2, oversubscription=4.0)
    rings = [Case(f"ring of {ranks}", ring_program(ranks), flat, "ring") for ranks in (64, 256, 1024)[: 2 + large]]  # fmt: skip
    step = partial(plan_step, Workload(mlp(512, 512, 512, 26), 4096))
    ring = PlanOptions(algorithm=Algorithm.RING)
    steps = [Case(f"data-parallel step of {ranks}, sums take time", step(Mesh(ranks), ring), sums) for ranks in (64, 128, 256)]  # fmt: skip
    wide = Workload(mlp(256, 256, 256, 256, 256, 256, 64), 1024)
    hybrid = plan_step(wide, Mesh(4, 4, 4), PlanOptions(4, algorithm=Algorithm.RING))
    net, server = mlp(128, 100, 26), Strategy.SERVER
    doubling = _often(step(Mesh(64), PlanOptions(algorithm=Algorithm.RECURSIVE_DOUBLING)))
    on_racks = sums.model_copy(update={"fabric": racks})
    return [
        *rings,
        *steps,
        Case(f"64 workers, 1 server, {ROUNDS} rounds", served(64), flat, "server"),
        Case("server, 64 workers, one step", _served(net, server), sums),
        Case(f"server, 64 workers, {TIMES} steps", _often(_served(net, server)), sums),
        Case(f"server, 64 workers, {TIMES} steps, noise", _often(_served(net, server)), sums, is_noisy=True),
        Case("async_server, 64 workers, 2,560 tickets", _served(net, Strategy.ASYNC_SERVER), sums),
        Case("async_server, as before, noise", _served(net, Strategy.ASYNC_SERVER), sums, is_noisy=True),
        Case("async_server, 4 servers, 784-512-26, noise", _served(mlp(784, 512, 26), Strategy.ASYNC_SERVER, 4), sums, is_noisy=True),
        Case("hybrid 4x4x4, 4 microbatches", hybrid, sums),
        Case(f"hybrid 4x4x4, {TIMES} steps", _often(hybrid), sums),
        Case(f"hybrid 4x4x4, {TIMES} steps, noise", _often(hybrid), sums, is_noisy=True),
        Case(f"doubling over 64 in two racks, {TIMES} steps", doubling, on_racks),
        Case(f"doubling over 64 in two racks, {TIMES} steps, noise", doubling, on_racks, is_noisy=True),
    ]  # fmt: skip


def served(workers: int) -> Program:
    """Return the program in which all workers send to a server at once, and then it to them."""
    part = Part("grad", 0, SERVED_NBYTES)
    numbers = range(1, workers + 1)
    takes = [Receive(f"in{i}", part, AnyRank(), 1) for i in numbers]
    answers = [Send(f"out{i}", part, At(Axis.DP, i), 2) for i in numbers]
    waits = [Wait(Lane.COMM, f"out{i}") for i in numbers]
    asks: tuple[Op, ...] = (Send("ask", part, At(Axis.DP, 0), 1), Wait(Lane.COMM, "ask"))
    asks += (Receive("answer", part, At(Axis.DP, 0), 2),)
    roles = (
        Role("server", range(1), range(1), range(1), (*takes, *answers, *waits), times=ROUNDS),
        Role("worker", range(1, workers + 1), range(1), range(1), asks, times=ROUNDS),
    )
    return Program(Mesh(workers + 1), 1, roles)


def num_messages(program: Program) -> int:
    """Return how many messages the expanded ``program`` sends."""
    count = 0
    for role in program.roles:
        times = role.times if not role.until else program.tickets / role.num_ranks
        for op in role.ops:
            body, repeats = (op.body, op.count) if isinstance(op, Repeat) else ((op,), 1)
            sends = sum(isinstance(each, Send) for each in body)
            count += round(sends * repeats * role.num_ranks * times)
    return count


def _with_sums(machine: Machine) -> Machine:
    """Return ``machine`` with sums that take time."""
    assert machine.compute is not None
    kernels = dict(machine.compute.kernels)
    model = kernels[Kernel.ACCUMULATE]
    kernels[Kernel.ACCUMULATE] = KernelModel(**(model.model_dump() | {"coefficients_s": model.coefficients_s | {"fixed": SUM_S}}))  # fmt: skip
    return machine.model_copy(update={"compute": machine.compute.model_copy(update={"kernels": kernels})})  # fmt: skip


def _served(net: Network, strategy: Strategy, servers: int = 1) -> Program:
    batch = 64 * 64
    options = PlanOptions(strategy=strategy, servers=servers)
    return plan_epoch(Workload(net, batch), Mesh(64 + servers), options, 40 * batch)[0].program


def _often(program: Program) -> Program:
    roles = tuple(replace(role, times=role.times * TIMES) for role in program.roles)
    return replace(program, roles=roles)
