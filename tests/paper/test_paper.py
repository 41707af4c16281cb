import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.ladder import ladder
from calibration.machine import read_machine
from exec.program.mesh import Mesh
from paper.results import CHECK_FILE, MACHINE_FILE, numbers, read_records, scalings
from sim.check import SERIAL_CASES
from sim.forecast import forecast

pytest.importorskip("typst", reason="needs the paper extra")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the figures and the report."""
    folder = tmp_path_factory.mktemp("paper")
    command = [sys.executable, "-m", "paper", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return folder


def test_the_report_and_both_figures_are_made_from_committed_files(out: Path) -> None:
    assert (out / "report.pdf").read_bytes().startswith(b"%PDF")
    for name in ("speedup", "agreement"):
        assert "<svg" in (out / f"{name}.svg").read_text(encoding="utf-8")


def test_the_report_says_what_the_measurements_say(out: Path) -> None:
    errors = json.loads((out / "results.json").read_text(encoding="utf-8"))["errors"]
    _, checks = read_records(CHECK_FILE)
    own = sorted(abs(check["solved_s"] / check["measured_s"] - 1) for check in checks)
    assert errors["count"] == len(checks)
    assert errors["most"] == pytest.approx(own[-1], rel=1e-12)
    assert errors["median"] == pytest.approx(own[len(own) // 2], rel=1e-12)  # an odd number of them


def test_the_readme_quotes_the_measurements() -> None:
    readme, quoted = (ROOT / "README.md").read_text(encoding="utf-8"), numbers()
    errors, rows = quoted["errors"], quoted["trainer"]["rows"]
    small, large = (
        next(row for row in rows if (row["net"], row["batch"]) == key)
        for key in (("128-50-26", 32), ("784-512-512-26", 256))
    )
    for text in (
        f"median {errors['median']:.1%}".replace("%", " %"),
        f"{100 * errors['least']:.1f} to {100 * errors['most']:.1f} %",
        f"{errors['inside']} of {errors['count']} inside",
        f"| {100 * quoted['letters']['accuracy']:.1f} % |",
        f"{small['speed_over_pytorch']['median']:.1f} times",
        f"{large['speed_over_pytorch']['median']:.2f} times",
        f"| {large['time_over_products']['median']:.2f} (",
    ):
        assert text in readme


def test_the_readme_s_figures_are_the_ones_that_are_made() -> None:
    for name in re.findall(r"\]\((paper/build/\w+\.svg)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).is_file()


def test_no_checked_network_was_on_the_ladder_and_every_forecast_can_be_made_again() -> None:
    _, checks = read_records(CHECK_FILE)
    seen = {(each.net, each.global_batch) for each in ladder(200)}
    assert not seen & {(check["net"], check["batch"]) for check in checks}
    machine = read_machine(MACHINE_FILE)
    serial = [check for check in checks if check["ranks"] == 1]
    assert len(serial) == len(SERIAL_CASES)
    for check, case in zip(serial, SERIAL_CASES, strict=True):
        answer = forecast(machine, case.workload, Mesh())
        assert answer.step_time_s == pytest.approx(check["solved_s"], rel=1e-9)


def test_measured_points_of_the_speedup_figure_are_measured() -> None:
    _, checks = read_records(CHECK_FILE)
    measured = {
        (c["net"], c["batch"], c["strategy"], c["overlap"]): c["measured_s"]
        for c in checks
        if c["algorithm"] == "library"
    }
    for scaling in scalings(checks):
        key = (scaling.net, scaling.batch)
        ratio = measured[*key, "serial", False] / measured[*key, "data", False]
        assert scaling.measured[2] == pytest.approx(ratio, rel=1e-12)


def test_the_readme_says_how_many_kills_the_search_has_survived() -> None:
    path = ROOT / "paper" / "measurements" / "kill-search.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    summary = lines[-1]
    other_bits = summary["searches"] - summary["equal"]
    assert summary["kills"] == sum(line["kind"] == "kill" for line in lines)
    row = (
        f"| {summary['kills']} kills of a search on {summary['ranks']} ranks at random moments: trials "
        f"lost, run twice, searches of other bits | `python benchmarks/kill_search.py` | "
        f"{summary['lost']}, {summary['repeated']}, {other_bits} |"
    )
    assert row in (ROOT / "README.md").read_text(encoding="utf-8")
