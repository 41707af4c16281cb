"""Padded trainings on a rig: one case, its pace, and its record."""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.find import find_machine
from calibration.machine import Machine
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy, mesh_of
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.evidence_rig import options_of
from sim.pace import dilated, pace_of
from tests.cluster import rig

STEPS_IN_EPOCH, EPOCHS = 10, 2
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Case:
    """One training: ``options`` are those of exec.train, spelled as there, without dashes before.

    A flag is True. ``net``, ``batch`` and ``strategy`` are not among them.
    """

    name: str
    net: str
    batch: int
    ranks: int
    options: dict[str, str | int | bool] = field(default_factory=dict)
    strategy: Strategy = Strategy.DATA
    slow: tuple[tuple[int, float], ...] = ()
    noise: str | None = None

    @property
    def workload(self) -> Workload:
        """The step it trains."""
        return Workload(parse_net(self.net), self.batch)

    @property
    def mesh(self) -> Mesh:
        """How its ranks are laid out."""
        factors = {name: self.options.get(name) for name in ("dp", "pp", "tp")}
        return mesh_of(self.strategy, self.ranks, **factors)  # type: ignore[arg-type]

    @property
    def plan_options(self) -> PlanOptions:
        """How it uses them."""
        return options_of(self.strategy, self.options)

    @property
    def num_train(self) -> int:
        """The samples of an epoch."""
        return STEPS_IN_EPOCH * self.batch

    def arguments(self) -> list[str]:
        """Return its options as exec.train takes them."""
        found = ["--net", self.net, "--batch", str(self.batch), "--strategy", self.strategy]
        for name, value in self.options.items():
            found += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        for rank, factor in self.slow:
            found += ["--slow", f"{rank}={factor:g}"]
        return found + (["--noise", self.noise] if self.noise else [])


def padded_machine(machine: str, multiple: float) -> Machine:
    """Return the Machine whose times padded ops take, ``multiple`` times those of ``machine``."""
    return dilated(find_machine(machine), multiple)


def measured(name: str, case: Case, machine: Machine, multiple: float, seed: int) -> dict[str, Any]:
    """Return the record of ``case``, run once on the first hosts of the rig ``name``.

    Raises:
        RigError: the training failed; the message has its own.
    """
    pace = pace_of(machine, multiple, case.workload, case.mesh, case.plan_options, case.num_train)
    with tempfile.TemporaryDirectory(prefix="stepcast-") as folder:
        path = Path(folder) / "pace.json"
        path.write_text(json.dumps(pace), encoding="utf-8")
        command = [
            "python", "-m", "exec.train", *case.arguments(), "--data", "noise", "--lr", "0.01",
            "--num-train", str(case.num_train), "--num-test", "16", "--epochs", str(EPOCHS),
            "--seed", str(seed), "--pace", str(path), "--json",
        ]  # fmt: skip
        hosts = -(-case.ranks // rig.spec_of(name).ranks_per_host)
        done = rig.run(name, command, hosts=hosts, ranks=case.ranks, is_captured=True, timeout_s=_TIMEOUT_S)  # fmt: skip
    if done.returncode:
        raise rig.RigError(f"{case.name} failed: {' '.join(done.stderr.split()[-60:])}")
    record: dict[str, Any] = json.loads(done.stdout)
    return record
