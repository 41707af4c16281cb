"""What to train, and how to share it."""

from dataclasses import dataclass, field

from exec.device.kind import DeviceKind
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.runtime.pace import Pacing
from exec.workload import Workload


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to train and how to share it; ``seed`` gives weights and the order of samples.

    With ``has_independent_starts`` every replica draws weights of its own. ``slowness`` is by how
    much each rank named in it is slowed down. ``replayed`` are the arrivals of an earlier run, by
    server, that this one is to take its messages in. With ``is_tf32`` a GPU may round the factors
    of float32 products. With a ``pacing`` ops take the times that it gives.
    """

    workload: Workload
    mesh: Mesh
    options: PlanOptions = field(default_factory=PlanOptions)
    dtype: str = "float32"
    learning_rate: float = 0.5
    momentum: float = 0.0
    seed: int = 0
    has_independent_starts: bool = False
    slowness: tuple[tuple[int, float], ...] = ()
    replayed: tuple[tuple[int, ...], ...] = ()
    is_tf32: bool = False
    pacing: Pacing | None = None

    @property
    def device(self) -> DeviceKind:
        """Where the arrays are."""
        return self.options.device
