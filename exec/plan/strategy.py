"""Strategies by name: a shape of mesh, or a way for replicas to talk."""

from enum import StrEnum

from exec.errors import UsageError
from exec.program.mesh import Mesh


class Strategy(StrEnum):
    """How the work is split over the ranks."""

    SERIAL = "serial"
    DATA = "data"
    PIPELINE = "pipeline"
    TENSOR = "tensor"
    HYBRID = "hybrid"
    KRIZHEVSKY = "krizhevsky"
    AVERAGING = "averaging"
    MASTER_ROUND_TRIP = "master_round_trip"
    MASTER_BROADCAST = "master_broadcast"
    SERVER = "server"
    ASYNC_SERVER = "async_server"
    SHARED_LOCK = "shared_lock"
    SHARED_WINDOWS = "shared_windows"
    HOGWILD = "hogwild"


SYNCHRONOUS = (Strategy.SERIAL, Strategy.DATA, Strategy.PIPELINE, Strategy.TENSOR, Strategy.HYBRID)
"""Strategies that are a shape of mesh: every step all-reduces the gradient."""
LOCKSTEP = (*SYNCHRONOUS, Strategy.KRIZHEVSKY)
"""Strategies whose every step is that of one rank on the whole batch."""
MASTERS = (Strategy.MASTER_ROUND_TRIP, Strategy.MASTER_BROADCAST)
SERVERS = (Strategy.SERVER, Strategy.ASYNC_SERVER)
SHARED = (Strategy.SHARED_LOCK, Strategy.SHARED_WINDOWS, Strategy.HOGWILD)
UNORDERED = (Strategy.ASYNC_SERVER, *SHARED)
"""Strategies whose ranks meet in an order that only the run knows: the host must carry messages."""
UNSOLVED = (Strategy.ASYNC_SERVER, Strategy.SHARED_LOCK)
"""Strategies without a closed form: their order is only known when they run."""
ROUNDS = (Strategy.AVERAGING, *MASTERS)
"""Strategies whose ranks take several steps between messages."""
DIFFERING = (*ROUNDS, Strategy.ASYNC_SERVER)
"""Strategies whose steps differ: a step's time is their mean over an epoch."""


def mesh_of(
    strategy: Strategy,
    ranks: int,
    dp: int | None = None,
    pp: int | None = None,
    tp: int | None = None,
) -> Mesh:
    """Return the mesh of ``strategy`` on ``ranks`` ranks; one factor of a hybrid may be left out.

    Raises:
        UsageError: the factors do not multiply to ``ranks``, or contradict the strategy.

    >>> mesh_of(Strategy.HYBRID, 8, pp=2, tp=2)
    Mesh(dp=2, pp=2, tp=2)
    """
    given = {"dp": dp, "pp": pp, "tp": tp}
    for name, factor in given.items():
        if factor is not None and factor < 1:
            raise UsageError(f"{name} must be at least 1, got {factor}")
    if strategy is Strategy.HYBRID or (strategy is Strategy.AVERAGING and (pp or tp)):
        return _hybrid_mesh(ranks, given)
    if strategy is Strategy.SERIAL and ranks != 1:
        raise UsageError(f"strategy serial runs on 1 rank, got {ranks}; choose data, pipeline, tensor or hybrid")  # fmt: skip
    if strategy is Strategy.KRIZHEVSKY and dp is not None and pp in (None, 1):
        return _hybrid_mesh(ranks, {"dp": dp, "pp": 1, "tp": tp})
    axis = {
        Strategy.SERIAL: None, Strategy.PIPELINE: "pp", Strategy.TENSOR: "tp",
        Strategy.KRIZHEVSKY: "tp",
    }.get(strategy, "dp")  # fmt: skip
    for name, factor in given.items():
        expected = ranks if name == axis else 1
        if factor not in (None, expected):
            raise UsageError(f"{name} must be {expected} for strategy {strategy} on {ranks} ranks, got {factor}; use --strategy hybrid to mix")  # fmt: skip
    return Mesh(**({axis: ranks} if axis else {}))


def _hybrid_mesh(ranks: int, given: dict[str, int | None]) -> Mesh:
    factors = {name: factor for name, factor in given.items() if factor is not None}
    missing = [name for name in given if name not in factors]
    product = 1
    for factor in factors.values():
        product *= factor
    if len(missing) == 1 and ranks % product == 0:
        factors[missing[0]] = ranks // product
        product = ranks
    if product != ranks:
        spelled = " x ".join(f"{name} {factors.get(name, 1)}" for name in given)
        raise UsageError(
            f"dp x pp x tp must be the number of ranks, {ranks}, got {spelled} = {product}; "
            f"change a factor, or start {product} ranks"
        )
    return Mesh(**factors)


def strategy_of(mesh: Mesh) -> Strategy:
    """Return the plainest strategy that uses ``mesh``."""
    axes = [
        strategy
        for strategy, size in (
            (Strategy.DATA, mesh.dp),
            (Strategy.PIPELINE, mesh.pp),
            (Strategy.TENSOR, mesh.tp),
        )
        if size > 1
    ]
    return axes[0] if len(axes) == 1 else Strategy.HYBRID if axes else Strategy.SERIAL
