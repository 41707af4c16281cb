"""A Machine made by hand, of round numbers, so that forms can be checked on paper; and random ones."""

from hypothesis import strategies as st

from calibration.features import features
from calibration.machine import (
    Compute,
    Curve,
    KernelModel,
    Link,
    Machine,
    Range,
    Segment,
    Storage,
    Tier,
)
from exec.program.ops import Kernel, Shape

EVERYTHING = Range(low=0.0, high=1e18)
FIXED_S, PER_UNIT_S = 1e-3, 1e-6  # of an op, and of a multiply-add or an element
ALPHA_S, BETA_S_PER_BYTE = 1e-3, 1e-6  # between nodes: 1 ms and 1 MB/s
GAMMA_S = PER_UNIT_S  # to add one number
NODE_SHARE = 0.1  # what a message inside a node costs of one between nodes
_LAST_KNEE = float(1 << 62)
_SOURCE = "made by hand"
# The multiply-adds, by one way or the other, or the elements that a kernel looks at.
_UNITS = ({"nkm"}, {"row_npkm", "patch_npkm"}, {"npmw"}, {"npm"}, {"nm"}, {"m"})


def curve(*segments: tuple[float, float, float], nbytes: Range = EVERYTHING) -> Curve:
    """Return the curve of ``(up_to_nbytes, alpha_s, beta_s_per_byte)`` segments."""
    return Curve(
        segments=tuple(
            Segment(up_to_nbytes=knee, alpha_s=alpha_s, beta_s_per_byte=beta)
            for knee, alpha_s, beta in segments
        ),
        nbytes=nbytes, rel_sigma=0.05, source=_SOURCE,
    )  # fmt: skip


def link(alpha_s: float, beta_s_per_byte: float, ranks: Range = EVERYTHING) -> Link:
    """Return a link whose messages cost ``alpha + beta n``, and its pairs' all-reduce too."""
    line = curve((_LAST_KNEE, alpha_s, beta_s_per_byte))
    return Link(message=line, allreduce=line, allreduce_ranks=ranks)


def links(alpha_s: float = ALPHA_S, beta_s_per_byte: float = BETA_S_PER_BYTE) -> dict[Tier, Link]:
    """Return the network's link, and one inside the node that is ten times as fast."""
    return {
        Tier.NETWORK: link(alpha_s, beta_s_per_byte),
        Tier.NODE: link(alpha_s * NODE_SHARE, beta_s_per_byte * NODE_SHARE),
    }


def kernel_model(kernel: Kernel, fixed_s: float, per_unit_s: float) -> KernelModel:
    """Return a model that charges an op, and each multiply-add, or element where there are none."""
    names = features(kernel, Shape(1, 1, 1), 1, (1, 1))
    unit = next(unit for unit in _UNITS if unit <= set(names))
    coefficients = dict.fromkeys(names, 0.0) | {"fixed": fixed_s} | dict.fromkeys(unit, per_unit_s)
    return KernelModel(coefficients_s=coefficients, n=EVERYTHING, k=EVERYTHING, m=EVERYTHING,
                       p=EVERYTHING, q=EVERYTHING, w=EVERYTHING, rel_sigma=0.1, num_samples=10)  # fmt: skip


def compute(fixed_s: float = FIXED_S, per_unit_s: float = PER_UNIT_S, **changed: object) -> Compute:
    """Return a compute section of many cores, without noise or overhead unless ``changed``."""
    section = {
        "source": _SOURCE, "dtype": "float64", "cores_per_node": 1024, "memory_nbytes": 1 << 40,
        "cache_nbytes": (1 << 20, 1 << 24),
        "kernels": {kernel: kernel_model(kernel, fixed_s, per_unit_s) for kernel in Kernel},
        "step_overhead_s": 0.0, "busy_slowdown": 1.0, "noise_rel_sigma": 0.0,
    }  # fmt: skip
    return Compute(**(section | changed))  # type: ignore[arg-type]  # as the sections above


def storage(fixed_s: float = 0.5, s_per_byte: float = 1e-4) -> Storage:
    """Return a disk that takes half a second a write, and 10 kB a second."""
    return Storage(source=_SOURCE, fixed_s=fixed_s, s_per_byte=s_per_byte, nbytes=EVERYTHING, rel_sigma=0.2)  # fmt: skip


def machine(**changed: object) -> Machine:
    """Return the hand-made Machine; ``changed`` replaces whole parts of it."""
    parts = {
        "format": "stepcast-machine-1", "name": "round", "description": "round numbers",
        "provenance": {"by": "hand"}, "compute": compute(), "links": links(), "overlap_share": 0.0,
    }  # fmt: skip
    return Machine(**(parts | changed))  # type: ignore[arg-type]  # as the parts above


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Draw a Machine whose costs range over three decades, its message curve with a knee."""

    def time_s(low: float, high: float) -> float:
        return draw(st.floats(low, high, allow_nan=False))

    found = {}
    for tier in Tier:
        knee, step_s = float(draw(st.sampled_from([64, 512, 4096]))), time_s(0.0, 1e-3)
        alpha_s, beta = time_s(0.0, 1e-3), time_s(0.0, 1e-4)
        line = curve((knee, alpha_s, beta), (_LAST_KNEE, alpha_s + step_s, beta))
        found[tier] = Link(message=line, allreduce=line, allreduce_ranks=EVERYTHING)
    kernels = {
        kernel: kernel_model(kernel, time_s(1e-6, 1e-3), time_s(0.0, 1e-6)) for kernel in Kernel
    }
    return machine(compute=compute(kernels=kernels), links=found)
