"""Stepcast's step on an accelerator, ready to be timed: replayed as one graph, or enqueued anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from exec.data.dataset import Dataset
from exec.device.kind import DeviceKind
from exec.device.opening import KERNELS, open_device
from exec.device.product_choice import ProductRoute
from exec.device.protocol import Device
from exec.nn.backend import Indices
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.runtime.backend import OnDevice
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.staged import StagedTransport
from exec.transport.threads import ThreadTransport, run_threads
from exec.workload import Workload


def open_routed(kind: DeviceKind, *, is_tf32: bool, route: ProductRoute | None = None) -> Device:
    """Return the first accelerator, with products going ``route``; None is what the trainer takes.

    Raises:
        DeviceError: there is none, or what it needs is missing.
        ValueError: only a GPU has routes.
    """
    if route is None:
        return open_device(kind, 0, is_tf32=is_tf32)
    if kind is not DeviceKind.GPU:
        raise ValueError(f"route must be None for {kind}, got {route}")
    from exec.device.cuda import open_cuda  # noqa: PLC0415  # after the check that there is a GPU

    return open_cuda(0, KERNELS, is_tf32=is_tf32, route=route)


@dataclass(slots=True)
class Ours:
    """A session of one rank on a device of its own."""

    session: Session

    @classmethod
    def open(
        cls, kind: DeviceKind, workload: Workload, dataset: Dataset, rate: float, *, is_tf32: bool,
        route: ProductRoute | None = None, is_enqueued: bool = False,
    ) -> "Ours":  # fmt: skip
        """Return a session; ``is_enqueued`` steps are given to the stream op by op, not as a graph."""
        plan = TrainingPlan(workload, Mesh(), PlanOptions(device=kind), learning_rate=rate, is_tf32=is_tf32)  # fmt: skip

        def body(transport: ThreadTransport) -> Session:
            device = open_routed(kind, is_tf32=is_tf32, route=route)
            wire = StagedTransport(transport, device)
            backend = OnDevice(kind, device, wire, is_replayed=not is_enqueued)
            return Session(plan, dataset, transport, backend=backend)

        return cls(run_threads(1, body)[0])

    @property
    def device(self) -> Device:
        """What computes."""
        found = self.session.backend.device
        assert found is not None
        return found

    def turn(self, batches: Sequence[Indices]) -> float:
        """Return the seconds of the steps on ``batches``, to the end of the last one.

        The loop of an epoch without its clocks: the order goes to the device once for as many
        batches as the samples have room for.
        """
        session, size = self.session, len(batches[0])
        at_once = max(1, len(session.dataset.train_labels) // size)
        orders = [np.concatenate(batches[i : i + at_once]) for i in range(0, len(batches), at_once)]
        session.synchronize()
        start_s = perf_counter()
        for order in orders:
            session.do_steps(order)
        session.synchronize()
        return perf_counter() - start_s

    def epoch_step_s(self, epoch: int) -> float:
        """Return the seconds a step takes in an epoch of the trainer's, with all its clocks."""
        done = self.session.run_epoch(epoch)
        return done.time_s / self.session.epoch_steps

    def close(self) -> None:
        """Give back what the device holds."""
        self.session.close()
        self.device.close()
