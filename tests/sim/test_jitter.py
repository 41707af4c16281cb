"""Laws of jitter: the slowest of many, in closed form and drawn."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.network.network import mlp
from exec.noise import Distribution, Noise, measured_noise
from exec.plan.collectives import expand
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.costs import Costs
from sim.forecast import Engine, forecast
from sim.jitter import expected_max, expected_slowest, paces
from sim.replicas import Draws
from sim.simulate import simulate
from tests.agreement.hand_made import compute, links, machine

SETTINGS = settings(derandomize=True, deadline=None, max_examples=30)
LOGNORMAL = Noise(Distribution.LOGNORMAL, 0.3)
EXPONENTIAL = Noise(Distribution.EXPONENTIAL, 0.2)
MEASURED = measured_noise(np.linspace(0.9, 1.1, 20) ** 2, 0.4)
NOISES = pytest.mark.parametrize("noise", [LOGNORMAL, EXPONENTIAL, MEASURED], ids=str)
WORKLOAD = Workload(mlp(20, 10, 10, 10, 6), 64, 8)


def noises() -> st.SearchStrategy[Noise]:
    named = st.sampled_from([Distribution.LOGNORMAL, Distribution.EXPONENTIAL])
    measured = st.builds(
        lambda sigma, tail: measured_noise(1.0 + sigma * np.linspace(-1, 1, 20) ** 3, tail),
        st.floats(0.01, 0.5),
        st.floats(0.01, 1.0),
    )
    return st.builds(Noise, named, st.floats(0.01, 1.0)) | measured


# Expected largest of n normal draws: H. L. Harter, "Expected values of normal order statistics",
# Biometrika 48 (1961) 151-165, table 1.
@pytest.mark.parametrize("count, harter", [(2, 0.56419), (5, 1.16296), (10, 1.53875), (100, 2.50759)])  # fmt: skip
def test_a_lognormal_of_small_spread_has_harters_order_statistics(count: int, harter: float) -> None:  # fmt: skip
    sigma = 1e-6
    found = (expected_max(Noise(Distribution.LOGNORMAL, sigma), count) - 1.0) / sigma
    assert found == pytest.approx(harter, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 1 << 20])
def test_the_slowest_of_exponential_delays_is_a_harmonic_number(count: int) -> None:
    # The gaps between order statistics of P exponentials are exponential of mean 1 / P, ..., 1.
    harmonic = math.fsum(1.0 / i for i in range(1, count + 1))
    assert expected_max(EXPONENTIAL, count) == pytest.approx(0.8 + 0.2 * harmonic, rel=1e-9)


@SETTINGS
@given(noise=noises(), steps=st.sampled_from([1, 2, 16]))
def test_the_slowest_of_more_is_slower_and_of_more_steps_nearer_the_mean(noise: Noise, steps: int) -> None:  # fmt: skip
    found = [expected_max(noise, 1 << power, steps) for power in range(12)]
    assert found[0] == 1.0
    assert found == sorted(set(found))
    more = [expected_max(noise, 1 << power, 4 * steps) for power in range(12)]
    assert all(late < soon for late, soon in zip(more[1:], found[1:], strict=True))


@NOISES
@pytest.mark.parametrize("count, steps", [(2, 1), (16, 1), (3, 4), (16, 10)])
def test_the_closed_form_is_the_mean_of_what_is_drawn(noise: Noise, count: int, steps: int) -> None:  # fmt: skip
    slowest = paces(noise, 5, count, steps, 4000).mean(axis=2).max(axis=1)
    error = 4 * slowest.std() / math.sqrt(4000)
    assert expected_max(noise, count, steps) == pytest.approx(slowest.mean(), abs=error)


@NOISES
def test_slower_ranks_count_for_what_they_are(noise: Noise) -> None:
    drawn = paces(noise, 5, 7, 1, 20_000)[:, :, 0] * np.array([2.0, 2.0, *[1.7] * 5])
    slowest = drawn.max(axis=1)
    found = expected_slowest(noise, {2.0: 2, 1.7: 5})
    assert found == pytest.approx(slowest.mean(), abs=4 * slowest.std() / math.sqrt(20_000))
    nearly = expected_slowest(noise, {1.0: 2, 1.0 + 1e-12: 5})
    assert nearly == pytest.approx(expected_max(noise, 7), rel=1e-4)


def test_draws_are_the_same_again_and_those_of_the_first_ranks_whatever_follows() -> None:
    few, many = (paces(LOGNORMAL, 3, ranks, 4, 5) for ranks in (2, 6))
    assert many.shape == (5, 6, 4)
    assert np.array_equal(few, many[:, :2])
    assert not np.array_equal(few, paces(LOGNORMAL, 4, 2, 4, 5))


@NOISES
@pytest.mark.parametrize("mesh, options, slow, rel", [
    (Mesh(8), PlanOptions(), (), 0.03),
    (Mesh(8), PlanOptions(), ((3, 2.0), (4, 1.9)), 0.03),
    (Mesh(pp=4), PlanOptions(8), (), 0.15),
    (Mesh(pp=4), PlanOptions(8, Schedule.GPIPE), (), 0.15),
    (Mesh(4, 2, 2), PlanOptions(4), (), 0.3),
    (Mesh(8), PlanOptions(strategy=Strategy.SERVER), (), 0.3),
], ids=["data", "slow", "1f1b", "gpipe", "hybrid", "server"])  # fmt: skip
def test_the_wait_is_what_many_simulated_steps_take_longer(
    mesh: Mesh, options: PlanOptions, slow: tuple[tuple[int, float], ...], rel: float, noise: Noise
) -> None:
    on = machine(compute=compute().with_noise(noise), links=links(1e-4, 1e-7))
    solved = forecast(on, WORKLOAD, mesh, options, slow=slow)
    program = expand(plan_epoch(WORKLOAD, mesh, solved.options, 64)[0].program)
    costs = Costs(on, mesh, 1, slowness=dict(slow))
    alone_s = simulate(program, costs, one_lane=True).step_time_s
    steps_s = np.array([
        simulate(program, costs, one_lane=True, paces=each).step_time_s
        for each in paces(noise, 1, mesh.world_size, 1, 60)
    ])  # fmt: skip
    longer_s, error_s = steps_s.mean() - alone_s, 4 * steps_s.std() / math.sqrt(len(steps_s))
    assert solved.breakdown.wait_s == pytest.approx(longer_s, abs=error_s + rel * longer_s)


def test_a_pipeline_waits_less_than_for_the_slowest_of_its_stages() -> None:
    on = machine(compute=compute().with_noise(LOGNORMAL))
    found = forecast(on, WORKLOAD, Mesh(pp=4), PlanOptions(8))
    assert 0 < found.breakdown.wait_s < (expected_max(LOGNORMAL, 4) - 1) * found.breakdown.compute_s


def test_replicas_have_the_mean_of_the_closed_form_and_are_the_same_again() -> None:
    on = machine(compute=compute().with_noise(LOGNORMAL))
    draws = Draws(400, 2)
    one, other = (forecast(on, WORKLOAD, Mesh(2), engine=Engine.SIMULATE, draws=draws, has_interval=False) for _ in range(2))  # fmt: skip
    assert one == other
    another = forecast(on, WORKLOAD, Mesh(2), engine=Engine.SIMULATE, draws=replace(draws, seed=3), has_interval=False)  # fmt: skip
    assert another.replicas_s != one.replicas_s
    solved = forecast(on, WORKLOAD, Mesh(2))
    error = 4 * np.std(one.replicas_s) / math.sqrt(400)
    assert one.step_time_s == pytest.approx(solved.step_time_s, abs=error)
    assert np.mean(one.replicas_s) == pytest.approx(one.step_time_s, rel=1e-9)
