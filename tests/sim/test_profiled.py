"""Laws of forecasts from profiles: a rank takes what was profiled, whoever reads and however it is split."""

import json
from pathlib import Path

import pytest

from calibration.machine import Machine, Tier
from calibration.stated import stated_link
from exec.network.profile import rate_network, read_profile
from exec.plan.options import PlanOptions
from exec.plan.strategy import SHARED, Strategy
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.engine import READERS
from sim.forecast import forecast
from sim.predict import app
from sim.profiled import profiled_machine
from tests.conftest import run_here
from tests.exec.network.test_profile import TABLE

LINKS = {Tier.NODE: stated_link(1e9, 1e-5), Tier.NETWORK: stated_link(1e9, 1e-5)}


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    path = tmp_path_factory.mktemp("profile") / "p.csv"
    path.write_text(TABLE)
    return Workload(read_profile(path, 16), 64)


def machine(ranks_per_node: int = 1) -> Machine:
    links = Machine(format="stepcast-machine-1", name="links", description="", provenance={}, links=LINKS)  # fmt: skip
    return profiled_machine(links, ranks_per_node)


def test_one_rank_takes_what_was_profiled(workload: Workload) -> None:
    assert forecast(machine(), workload, Mesh()).step_time_s == pytest.approx(4 * 0.048, rel=1e-9)


def test_replicas_take_their_share_and_sum_their_gradients(workload: Workload) -> None:
    found = forecast(machine(), workload, Mesh(4))
    summed_s = 2 * 1e-5 + 1.5 * 44_000 / 1e9
    assert found.step_time_s == pytest.approx(0.048 + summed_s, rel=1e-9)


@pytest.mark.parametrize(
    "strategy, mesh",
    [
        (Strategy.DATA, Mesh(4)), (Strategy.TENSOR, Mesh(1, 1, 2)), (Strategy.PIPELINE, Mesh(1, 2)),
        (Strategy.HYBRID, Mesh(2, 2)), (Strategy.HYBRID, Mesh(2, 1, 2)), (Strategy.AVERAGING, Mesh(4)),
        (Strategy.MASTER_ROUND_TRIP, Mesh(3)), (Strategy.MASTER_BROADCAST, Mesh(4)), (Strategy.SERVER, Mesh(4)),
        (Strategy.SHARED_WINDOWS, Mesh(2)), (Strategy.HOGWILD, Mesh(2)),
    ],
)  # fmt: skip
def test_both_engines_take_a_profile_under_every_strategy(strategy: Strategy, mesh: Mesh, workload: Workload) -> None:  # fmt: skip
    options = PlanOptions(num_microbatches=4 if mesh.pp > 1 else 1, strategy=strategy)
    ranks_per_node = mesh.world_size if strategy in SHARED else 1
    solved, simulated = (
        forecast(machine(ranks_per_node), workload, mesh, options, engine=engine, ranks_per_node=ranks_per_node, epoch_samples=64)
        for engine in READERS
    )  # fmt: skip
    loose = {Strategy.SERVER: 0.3}.get(strategy, 1e-9)
    assert solved.step_time_s == pytest.approx(simulated.step_time_s, rel=loose)
    trainers = mesh.world_size - (strategy is Strategy.SERVER)
    assert simulated.step_time_s > 4 * 0.048 / trainers * (1 - 1e-9)


@pytest.mark.parametrize("tp", [2, 3, 7])
def test_shards_hold_all_parameters_and_share_the_time(tp: int, workload: Workload) -> None:
    found = forecast(machine(), workload, Mesh(1, 1, tp))
    # Of 50 and 25 units the first rank has one more than the mean at most.
    assert 1 - 1e-9 <= found.breakdown.compute_s * tp / (4 * 0.048) <= (1 + tp / 50) * (1 + tp / 25)
    whole = forecast(machine(), workload, Mesh()).memory
    assert found.memory.parameters_bytes >= whole.parameters_bytes / tp
    assert found.memory.parameters_bytes <= whole.parameters_bytes / tp + 8 * tp


def test_a_rate_scales_as_its_parameters_are_summed() -> None:
    workload = Workload(rate_network(100.0, 1_000_000), 32 * 8)
    found = forecast(machine(), workload, Mesh(8))
    summed_s = 3 * 1e-5 + 2 * 7 / 8 * 4e6 / 1e9
    assert found.step_time_s == pytest.approx(0.32 + summed_s, rel=1e-9)


def test_the_command_line_takes_profiles_and_rates(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(TABLE)
    command = ("--machine", "infiniband-cluster", "--nodes", 2, "--json")
    rate = run_here(app, (*command, "--samples-per-s", 100, "--parameters", "25.6M", "--batch", 32))
    assert rate.returncode == 0, rate.stderr
    first = json.loads(rate.stdout)["rows"][0]
    assert first["step_time_s"] == pytest.approx(0.32, rel=1e-6)
    refused = run_here(app, (*command, "--samples-per-s", 100))
    assert (refused.returncode, refused.stderr[:40]) == (
        2,
        "error: samples-per-s and parameters must",
    )
    refused = run_here(app, (*command, "--profile", tmp_path / "p.csv"))
    assert refused.returncode == 2
    assert "or give --profile-batch" in refused.stderr
