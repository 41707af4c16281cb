"""Laws of rates that were published: more devices are forecast from one, its parameters and a link."""

import csv
import os
import statistics
from pathlib import Path

import pytest

from calibration.machine import Machine
from calibration.stated import parse_links
from exec.errors import MachineError
from sim.rates import Rate, hold_out_rates
from tests.conftest import ROOT

NVLINK = "node=20GB/s,10us"
PARAMETERS = {"InceptionV3": 23_800_000, "ResNet-50": 25_600_000, "ResNet-152": 60_200_000, "AlexNet": 61_000_000, "VGG16": 138_400_000}  # fmt: skip


def machine() -> Machine:
    return Machine(format="stepcast-machine-1", name="dgx1", description="", provenance={}, links=parse_links([NVLINK]))  # fmt: skip


def test_a_rate_grows_but_for_the_sum_of_gradients() -> None:
    rates = [Rate("a", 1_000_000, 10, 1, 100.0), Rate("a", 1_000_000, 10, 4, 350.0)]
    (found,) = hold_out_rates(rates, machine(), 8)
    step_s = 0.1 + 2 * 1e-5 + 1.5 * 4e6 / 20e9
    assert found.samples_per_s == pytest.approx(40 / step_s, rel=1e-9)
    assert found.low < found.samples_per_s < found.high
    with pytest.raises(MachineError, match="a must have a rate on one device with batch 10"):
        hold_out_rates(rates[1:], machine(), 8)


def test_the_published_table_is_forecast_within_a_tenth() -> None:
    named = os.environ.get("STEPCAST_MEASUREMENTS_DIR")
    folder = Path(named) if named else ROOT.parent / "shared" / "measurements"
    path = folder / "published" / "tensorflow_2017_dgx1.csv"
    if not path.is_file():
        pytest.skip("needs tables of others: set STEPCAST_MEASUREMENTS_DIR")
    rates = [
        Rate(row["model"], PARAMETERS[row["model"]], int(row["batch_per_gpu"]), int(row["gpus"]), float(row["images_per_s"]))
        for row in csv.DictReader(path.read_text().splitlines())
    ]  # fmt: skip
    found = hold_out_rates(rates, machine(), 8)
    assert len(found) == 27
    assert statistics.median(abs(each.error) for each in found) < 0.1
    assert sum(each.is_inside for each in found) / len(found) > 0.8
