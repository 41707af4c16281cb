"""Laws of intervals: wider with whatever is less certain, and the same solved and drawn."""

import pytest

from calibration.machine import Machine, Range, Tier
from exec.network.network import mlp
from exec.noise import Distribution, Noise
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Kernel
from exec.workload import Workload
from sim.forecast import Engine, Forecast, forecast
from sim.replicas import Draws
from tests.agreement.hand_made import compute, curve, kernel_model, link, machine, storage

WORKLOAD = Workload(mlp(20, 10, 6), 64, 8)
NOISE = Noise(Distribution.LOGNORMAL, 0.1)


def certain(
    kernels: float = 0.0, message: float = 0.0, allreduce: float = 0.0, disk: float = 0.0,
    ranks: Range = Range(low=1, high=1e9), nbytes: Range = Range(low=0, high=1e18),
) -> Machine:  # fmt: skip
    """Return the hand-made machine as certain as one says of its parts."""
    models = {each: kernel_model(each, 1e-3, 1e-6).model_copy(update={"rel_sigma": kernels}) for each in Kernel}  # fmt: skip
    joined = link(1e-3, 1e-6, ranks)
    line = curve((1e15, 1e-3, 1e-6), nbytes=nbytes)
    joined = joined.model_copy(update={
        "message": line.model_copy(update={"rel_sigma": message}),
        "allreduce": line.model_copy(update={"rel_sigma": allreduce}),
    })  # fmt: skip
    return machine(
        compute=compute(kernels=models), links={Tier.NETWORK: joined, Tier.NODE: joined},
        storage=storage().model_copy(update={"rel_sigma": disk}),
    )  # fmt: skip


def width(found: Forecast) -> float:
    low_s, high_s = found.interval_s
    assert low_s <= found.step_time_s <= high_s
    return (high_s - low_s) / found.step_time_s


RING = PlanOptions(algorithm=Algorithm.RING)


@pytest.mark.parametrize("part, options", [("kernels", PlanOptions()), ("allreduce", PlanOptions()), ("message", RING), ("disk", PlanOptions())])  # fmt: skip
def test_an_interval_widens_with_every_sigma(part: str, options: PlanOptions) -> None:
    widths = [
        width(forecast(certain(**{part: sigma}), WORKLOAD, Mesh(2), options, checkpoint_every=10))
        for sigma in (0.0, 0.02, 0.1, 0.4)
    ]
    assert widths[0] == 0.0
    assert widths == sorted(set(widths))


def test_an_interval_widens_with_noise() -> None:
    on = certain()
    noisy = on.model_copy(update={"compute": on.compute.with_noise(NOISE)})
    assert width(forecast(noisy, WORKLOAD, Mesh())) == 0.0  # nobody waits
    assert 0.0 < width(forecast(noisy, WORKLOAD, Mesh(4))) < width(forecast(noisy, WORKLOAD, Mesh(64)))  # fmt: skip


@pytest.mark.parametrize("options", [PlanOptions(), RING], ids=["library", "ring"])
def test_an_interval_widens_beyond_the_ranks_and_the_sizes_that_were_measured(options: PlanOptions) -> None:  # fmt: skip
    def found(ranks: float, nbytes: float, mesh: Mesh) -> float:
        on = certain(0, 0.05, 0.05, ranks=Range(low=1, high=ranks), nbytes=Range(low=0, high=nbytes))  # fmt: skip
        return width(forecast(on, WORKLOAD, mesh, options))

    every = [found(ranks, 1e6, Mesh(16)) for ranks in (16, 8, 2)]
    assert every == sorted(every)
    assert (every[-1] > every[0]) is (options is not RING)
    sizes = [found(16, 1e6, Mesh(16)), found(16, 100, Mesh(16)), found(16, 10, Mesh(16))]
    assert sizes == sorted(set(sizes))


def test_an_exchange_of_two_ranks_says_less_and_less_of_more() -> None:
    widths = [width(forecast(certain(), WORKLOAD, Mesh(ranks), RING)) for ranks in (2, 4, 8, 16)]
    assert widths[0] == 0.0
    assert widths == sorted(set(widths))


def test_a_message_that_compute_hides_makes_nothing_uncertain() -> None:
    slow = {each: kernel_model(each, 10.0, 0.0).model_copy(update={"rel_sigma": 0.0}) for each in Kernel}  # fmt: skip
    options = PlanOptions(overlap=True, bucket_nbytes=1)
    on = certain(allreduce=0.2)
    on = on.model_copy(update={"compute": compute(kernels=slow), "overlap_share": 1.0})
    hidden, shown = (forecast(on, WORKLOAD, Mesh(4), each) for each in (options, PlanOptions()))
    # Only the last bucket cannot be hidden.
    assert 0.0 < width(hidden) < 0.9 * width(shown)


@pytest.mark.parametrize("mesh, options", [(Mesh(), PlanOptions()), (Mesh(4), PlanOptions()), (Mesh(2), RING)], ids=["serial", "library", "ring"])  # fmt: skip
def test_drawn_and_solved_intervals_agree(mesh: Mesh, options: PlanOptions) -> None:
    on = certain(0.05, 0.05, 0.05)
    solved = forecast(on, WORKLOAD, mesh, options)
    count = 400
    drawn = forecast(on, WORKLOAD, mesh, options, engine=Engine.SIMULATE, draws=Draws(count, 1))
    assert drawn.step_time_s == pytest.approx(solved.step_time_s, rel=1e-9)
    # A quantile of N normal draws at 5 % errs by sqrt(0.05 0.95 / N) / 0.103 standard deviations.
    sigma_s = (solved.interval_s[1] - solved.interval_s[0]) / 2 / 1.645
    error_s = 4 * sigma_s * (0.05 * 0.95 / count) ** 0.5 / 0.103
    assert drawn.interval_s == pytest.approx(solved.interval_s, abs=error_s)


def test_an_interval_is_wider_above_than_below() -> None:
    found = forecast(certain(0.3), WORKLOAD, Mesh())
    low_s, high_s = found.interval_s
    assert high_s - found.step_time_s > 1.2 * (found.step_time_s - low_s)
