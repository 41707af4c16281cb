"""The ladder: which networks and batches the kernels are measured in.

Widths and batches are drawn log-uniformly from a fixed seed, so that the samples fill the range
instead of lining up along it, and any one feature varies while the others do.
"""

import numpy as np

from exec.workload import Workload

_SEED = 20_261_121
_WIDTHS, _CLASSES, _BATCHES = (8, 2560), (2, 128), (1, 2048)
_MAX_STEP_FLOPS = 10**9


def ladder(num_rungs: int, itemsize: int = 4) -> list[Workload]:
    """Return ``num_rungs`` workloads; a longer ladder begins with the shorter one."""
    generator = np.random.Generator(np.random.PCG64(_SEED))

    def draw(bounds: tuple[int, int]) -> int:
        return round(float(np.exp(generator.uniform(*np.log(bounds)))))

    rungs: list[Workload] = []
    while len(rungs) < num_rungs:
        hidden = [draw(_WIDTHS) for _ in range(int(generator.integers(1, 4)))]
        workload = Workload(
            (*hidden, draw(_CLASSES)), draw(_BATCHES), itemsize, len(rungs) % 2 == 1
        )
        flops = sum(workload.layer_flops(i) for i in range(workload.num_layers))
        if flops * workload.global_batch <= _MAX_STEP_FLOPS:
            rungs.append(workload)
    return rungs
