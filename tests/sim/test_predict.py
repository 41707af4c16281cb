"""The command line of forecasts: what it prints, and how it refuses."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from calibration.fabric import FabricModel, LinkSpeed
from calibration.machine import write_machine
from exec.cli import run_app
from sim.predict import app
from tests.agreement.hand_made import compute, machine, storage
from tests.conftest import run_process

SAME = 1e-9  # roundings only
ROW = {
    "nodes", "ranks", "strategy", "engine", "simulated", "step_time_s", "speedup", "speedup_low", "speedup_high",
    "efficiency", "memory_bytes", "breakdown", "extrapolated", "mesh", "microbatches", "schedule",
    "algorithm", "overlap", "batch", "epoch_time_s", "samples_per_s", "step_time_upper_s", "average_every",
    "servers", "staleness", "memory", "memory_by_schedule", "stages", "imbalance", "sync_batchnorm",
    "step_time_interval_s", "replicas",
}  # fmt: skip
PARTS = {"compute_s", "exposed_comm_s", "bubble_s", "wait_s", "overhead_s", "checkpoint_s"}
Finished = subprocess.CompletedProcess[str]
Predict = Callable[..., Finished]


@pytest.fixture
def machine_file(tmp_path: Path) -> Path:
    """Return a Machine file that this test wrote."""
    path = tmp_path / "round.json"
    write_machine(machine(compute=compute(noise_rel_sigma=0.02, step_overhead_s=1e-4)), path)
    return path


@pytest.fixture
def predict(tmp_path: Path, machine_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:  # fmt: skip
    """Return a function that runs the command in this process, on the machine file unless told."""
    # No profile of the computer that runs the tests may leak in.
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str) -> Finished:
        on = () if "--machine" in arguments else ("--machine", str(machine_file))
        status = 0
        try:
            run_app(app, [*arguments, *on])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return Finished(list(arguments), status, out, err)

    return run


def rows(finished: Finished) -> list[dict]:  # type: ignore[type-arg]  # of JSON
    """Return the forecasts of a run with --json."""
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout, parse_constant=pytest.fail)["rows"]


def refused(finished: Finished, message: str) -> None:
    """Assert that the user is told, in one message without a traceback."""
    assert finished.returncode == 2, finished
    lines = finished.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert all(line.startswith("Try: ") for line in lines[1:])
    assert "Traceback" not in finished.stderr + finished.stdout
    assert finished.stdout == ""
    assert message in finished.stderr


def test_it_answers_as_a_command(machine_file: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sim.predict",
        "--nodes",
        "64",
        "--json",
        "--machine",
        str(machine_file),
    ]
    finished = run_process(command, STEPCAST_CACHE=str(tmp_path))
    assert finished.stderr == ""
    assert {row["nodes"] for row in rows(finished)} == {1, 2, 4, 8, 16, 32, 64}


def test_it_refuses_as_a_command(tmp_path: Path) -> None:
    finished = run_process([sys.executable, "-m", "sim.predict"], STEPCAST_CACHE=str(tmp_path))
    refused(finished, "this machine has no profile yet")
    assert "python -m calibration" in finished.stderr


def test_predicting_imports_no_array_backend_wire_plot_or_fit() -> None:
    # One statement per line would be lost in -c; the modules loaded by the command are the point.
    code = "import sys, sim.predict; print(*sys.modules)"
    finished = run_process([sys.executable, "-c", code])
    loaded = set(finished.stdout.split())
    assert "sim.predict" in loaded
    unwanted = {
        "mpi4py", "cupy", "matplotlib", "scipy", "exec.runtime", "exec.nn", "exec.transport", "exec.data",
        "calibration.fit", "calibration.probe",
    }  # fmt: skip
    assert not loaded & unwanted


@pytest.mark.parametrize("engine", ["solve", "simulate"])
def test_a_row_has_the_documented_keys_and_finite_numbers(predict: Predict, engine: str) -> None:
    found = rows(predict("--nodes", "8", "--engine", engine, "--json"))
    for row in found:
        assert set(row) == ROW
        assert set(row["breakdown"]) == PARTS
        assert sum(row["breakdown"].values()) == pytest.approx(row["step_time_s"], rel=SAME)
        assert all(math.isfinite(value) and value >= 0 for value in row["breakdown"].values())
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        assert (
            row["step_time_interval_s"][0] <= row["step_time_s"] <= row["step_time_interval_s"][1]
        )
        assert row["replicas"] is None  # none were asked for
        assert row["efficiency"] == pytest.approx(row["speedup"] / row["ranks"], rel=SAME)
        assert row["engine"] == engine
        assert row["mesh"]["dp"] * row["mesh"]["pp"] * row["mesh"]["tp"] == row["ranks"]
        assert 0 < row["efficiency"] <= 1 + SAME
        assert row["memory_bytes"] > 0
        assert row["extrapolated"] == []  # the machine was measured everywhere
    serial = [row for row in found if row["strategy"] == "serial"]
    assert [row["speedup"] for row in serial] == [1.0]
    assert {row["strategy"] for row in found} == {"serial", "data", "pipeline", "tensor", "hybrid"}


def test_both_engines_agree_where_no_messages_meet(predict: Predict) -> None:
    solved, simulated = (
        rows(predict("--nodes", "8", "--strategy", "data", "--engine", engine, "--json"))
        for engine in ("solve", "simulate")
    )
    assert [row["nodes"] for row in solved] == [2, 4, 8]  # one rank alone is serial
    for one, other in zip(solved, simulated, strict=True):
        assert one["step_time_s"] == pytest.approx(other["step_time_s"], rel=SAME)


def test_a_hierarchical_allreduce_takes_its_nodes_from_ranks_per_node(predict: Predict) -> None:
    # 84 x 41 numbers are 287 for each of 12 ranks, and a batch of 120 is 10 samples.
    on = ("--nodes", "3", "--ranks-per-node", "4", "--net", "40-84", "--batch", "120", "--strategy", "data", "--json")  # fmt: skip
    solved, simulated, ring = (
        rows(predict(*on, *options))[-1]["step_time_s"]
        for options in (
            ("--algorithm", "hierarchical"),
            ("--algorithm", "hierarchical", "--engine", "simulate"),
            ("--algorithm", "ring"),
        )
    )
    assert solved == pytest.approx(simulated, rel=SAME)
    # A node sends 2 (3 - 1) / 3 of the buffer to the next, of a ring of 12 ranks 2 (12 - 1) / 12.
    assert solved < ring


def test_a_mesh_that_lies_unevenly_over_nodes_is_refused_for_a_hierarchical_allreduce(
    predict: Predict,
) -> None:
    mesh = ("--dp", "4", "--pp", "1", "--tp", "3", "--ranks-per-node", "4")
    refused(
        predict(*mesh, "--algorithm", "hierarchical"), "equally many ranks of a dp group on each"
    )
    assert len(rows(predict(*mesh, "--algorithm", "ring", "--json"))) == 1


def test_the_same_command_prints_the_same(predict: Predict) -> None:
    one, two = (predict("--nodes", "16", "--json").stdout for _ in range(2))
    assert one == two


def test_weak_scaling_keeps_the_batch_of_a_rank(predict: Predict) -> None:
    found = rows(predict("--nodes", "8", "--batch-per-rank", "32", "--strategy", "data", "--json"))
    assert [row["batch"] for row in found] == [32 * row["ranks"] for row in found]
    # Every rank computes the same as ever, so a speedup is a ratio of samples per second.
    compute_s = [row["breakdown"]["compute_s"] for row in found]
    assert compute_s == pytest.approx([compute_s[0]] * 3, rel=SAME)
    assert all(1 < row["speedup"] <= row["ranks"] for row in found)


def test_strong_scaling_keeps_the_global_batch(predict: Predict) -> None:
    found = rows(predict("--nodes", "8", "--batch", "512", "--json"))
    assert {row["batch"] for row in found} == {512}


def test_the_factors_fix_the_mesh_and_the_nodes(predict: Predict) -> None:
    (row,) = rows(
        predict(
            "--dp",
            "2",
            "--pp",
            "2",
            "--tp",
            "2",
            "--ranks-per-node",
            "4",
            "--microbatches",
            "4",
            "--json",
        )
    )
    assert row["mesh"] == {"dp": 2, "pp": 2, "tp": 2}
    assert row["efficiency"] == pytest.approx(row["speedup"] / 8, rel=SAME)
    assert (row["nodes"], row["ranks"], row["microbatches"], row["strategy"]) == (2, 8, 4, "hybrid")


def test_one_missing_factor_is_what_the_nodes_leave(predict: Predict) -> None:
    (row,) = rows(predict("--nodes", "8", "--pp", "2", "--tp", "1", "--json"))
    assert row["mesh"] == {"dp": 4, "pp": 2, "tp": 1}


def test_a_trace_is_chromes_and_as_long_as_the_step(predict: Predict, tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    arguments = (
        "--dp",
        "2",
        "--pp",
        "2",
        "--tp",
        "1",
        "--engine",
        "simulate",
        "--microbatches",
        "2",
    )
    (row,) = rows(predict(*arguments, "--trace", str(path), "--json"))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
    assert {event["pid"] for event in events} == set(range(4))
    parts = row["breakdown"]
    step_us = (row["step_time_s"] - parts["wait_s"] - parts["overhead_s"]) * 1e6
    # Times in a trace are rounded to a nanosecond.
    assert max(event["ts"] + event["dur"] for event in events) == pytest.approx(step_us, abs=0.002)


def test_the_table_says_who_wins_and_holds_every_row(predict: Predict) -> None:
    finished = predict("--nodes", "4")
    assert finished.returncode == 0
    assert "fastest by nodes: serial at 1" in finished.stdout
    assert "forecasts in" in finished.stdout
    assert finished.stdout.count("fastest\n") + finished.stdout.count("fastest \n") >= 1
    for strategy in ("serial", "data", "pipeline", "tensor", "hybrid"):
        assert f" {strategy} " in finished.stdout


REFUSALS = {
    "no nodes": (["--nodes", "0"], "nodes must be a finite number greater than 0, got 0"),
    "nodes less than none": (["--nodes", "-4"], "nodes must be"),
    "nodes not a number": (["--nodes", "nan"], "nan"),
    "too many nodes": (["--nodes", "99999999"], "at most 16,777,216"),
    "no ranks on a node": (["--ranks-per-node", "0"], "ranks-per-node must be"),
    "negative batch": (["--batch", "-1"], "batch must be at least 1, got -1"),
    "no batch": (["--batch", "0"], "batch must be at least 1, got 0"),
    "no batch on a rank": (["--batch-per-rank", "0"], "batch"),
    "two batches": (["--batch", "8", "--batch-per-rank", "2"], "must not both be given"),
    "no microbatches": (["--microbatches", "0"], "microbatches must be"),
    "no buckets": (["--bucket-kib", "0"], "bucket-kib must be"),
    "no samples": (["--epoch-samples", "0"], "epoch-samples must be"),
    "unknown machine": (["--machine", "ethernet-clutser"], "did you mean 'ethernet-cluster'?"),
    "absent file": (["--machine", "./absent.json"], "cannot be read"),
    "unknown flag": (["--nodez", "4"], "nodez"),
    "unknown strategy": (["--strategy", "pipelin"], "pipelin"),
    "unknown engine": (["--engine", "guess"], "guess"),
    "a net of words": (["--net", "a-b"], "net must be one of"),
    "a net of one layer of units": (["--net", "128"], "net must be widths"),
    "a net with no units": (["--net", "128-0-26"], "widths of 1 to 10 million"),
    "a mesh larger than the batch": (["--dp", "64", "--pp", "1", "--tp", "1", "--batch", "32"], "batch must be at least dp x microbatches"),
    "more replicas than samples": (["--nodes", "64", "--strategy", "data", "--batch", "1"], "batch must be at least"),
    "more stages than layers": (["--dp", "1", "--pp", "3", "--tp", "1"], "pp must be at most the 2 layers"),
    "more shards than units": (["--dp", "1", "--pp", "1", "--tp", "200"], "tp must be at most the 100 channels or units"),
    "factors of something else": (["--nodes", "8", "--pp", "3", "--tp", "1"], "must be the number of ranks"),
    "a factor of none": (["--dp", "0", "--pp", "1", "--tp", "1"], "dp must be at least 1"),
    "too many to simulate": (["--nodes", "1024", "--engine", "events", "--batch", "2048"], "takes at most 512 ranks"),
    "a plot of no kind": (["--plot", "x.docx"], "plot must end in .svg, .png or .pdf"),
    "a plot nowhere": (["--plot", "/no/such/folder/x.svg"], "plot must be a file in a folder that exists"),
    "checkpoints never": (["--checkpoint-every", "0"], "checkpoint-every must be a finite number greater than 0"),
    "checkpoints at no known cost": (["--checkpoint-every", "5"], "says nothing of storage, so checkpoints have no cost; measure it with python -m calibration --storage-dir DIR"),
    "a trace nowhere": (["--trace", "/no/such/folder/x.json"], "trace must be a file in a folder that exists"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, message", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_is_refused_in_one_message(
    predict: Predict, arguments: list[str], message: str
) -> None:
    refused(predict(*arguments), message)


def damaged(change: Callable[[dict], object]) -> Callable[[str], str]:  # type: ignore[type-arg]  # of JSON
    """Return a function from a Machine's text to that of one with ``change`` made to it."""

    def apply(text: str) -> str:
        document = json.loads(text)
        change(document)
        return json.dumps(document)

    return apply


def no_cost(document: dict) -> None:  # type: ignore[type-arg]  # of JSON
    document["compute"]["step_overhead_s"] = 0
    for model in document["compute"]["kernels"].values():
        model["coefficients_s"] = dict.fromkeys(model["coefficients_s"], 0)


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "empty": (lambda text: "", "the file"),
    "truncated": (lambda text: text[: len(text) // 2], "the file"),
    "not JSON": (lambda text: "machine = yes", "the file"),
    "another format": (damaged(lambda d: d.update(format="stepcast-machine-9")), "format"),
    "no format": (damaged(lambda d: d.pop("format")), "format"),
    "an extra key": (damaged(lambda d: d.update(colour="blue")), "colour"),
    "NaN": (damaged(lambda d: d["links"]["network"]["message"].update(rel_sigma=math.nan)), "links.network.message.rel_sigma"),
    "infinite": (damaged(lambda d: d["compute"].update(step_overhead_s=math.inf)), "compute.step_overhead_s"),
    "a negative latency": (damaged(lambda d: d["links"]["node"]["message"]["segments"][0].update(alpha_s=-1e-6)), "links.node.message.segments.0.alpha_s"),
    "a missing kernel": (damaged(lambda d: d["compute"]["kernels"].pop("loss")), "no cost for loss"),
    "an unknown kernel": (damaged(lambda d: d["compute"]["kernels"].update(convolution={})), "compute.kernels.convolution"),
    "a kernel's unknown feature": (damaged(lambda d: d["compute"]["kernels"]["loss"]["coefficients_s"].update(cubed=1.0)), "cubed"),
    "numbers as text": (damaged(lambda d: d["compute"].update(cores_per_node="2")), "compute.cores_per_node"),
    "half a machine": (damaged(lambda d: d.pop("compute")), "says nothing of compute; combine it"),
    "no links": (damaged(lambda d: d.update(links={})), "no link between nodes; measure it"),
    "all costs zero": (damaged(no_cost), "must take a finite time above 0"),
}  # fmt: skip


@pytest.mark.parametrize("damage, key", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_machine_file_is_refused_by_the_key(
    predict: Predict, machine_file: Path, damage: Callable[[str], str], key: str
) -> None:
    machine_file.write_text(damage(machine_file.read_text()))
    refused(predict("--nodes", "4"), key)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--nodes", "4", "--dp", "2", "--pp", "2", "--tp", "2"), "nodes must be the 8"),
        (("--nodes", "1.5"), "is not a whole number"),
        (("--nodes", "1024", "--engine", "events"), "at most 512 ranks"),
        (("--net", "100000-100000-100000", "--nodes", "1"), "fits into the memory"),
    ],
)
def test_what_cannot_be_forecast_is_refused_before_any_work(
    predict: Predict, machine_file: Path, arguments: tuple[str, ...], message: str
) -> None:
    text = damaged(lambda d: d["compute"].update(memory_nbytes=1 << 30))(machine_file.read_text())
    machine_file.write_text(text)
    refused(predict(*arguments), message)


def test_plans_that_do_not_fit_into_a_node_are_left_out_and_counted(
    predict: Predict, machine_file: Path
) -> None:
    # 806,002 parameters of 8 bytes, and their gradients, are more than 10 MiB; halves are less.
    text = damaged(lambda d: d["compute"].update(memory_nbytes=10 << 20))(machine_file.read_text())
    machine_file.write_text(text)
    net = ("--net", "400-2000-2", "--batch", "16", "--nodes", "2")
    found = rows(predict(*net, "--json"))
    assert {row["strategy"] for row in found} == {"tensor"}
    assert "left out" in predict(*net).stdout


def test_an_epoch_is_whole_steps(predict: Predict) -> None:
    found = rows(predict("--nodes", "2", "--batch", "64", "--epoch-samples", "100", "--json"))
    for row in found:
        assert row["epoch_time_s"] == pytest.approx(2 * row["step_time_s"], rel=SAME)


@pytest.mark.parametrize("spelling", ["1f1b", "one-f-one-b", "gpipe"])
def test_schedules_are_called_as_in_the_record_or_as_in_the_help(
    predict: Predict, spelling: str
) -> None:
    found = rows(
        predict("--nodes", "2", "--strategy", "pipeline", "--schedule", spelling, "--json")
    )
    assert {row["schedule"] for row in found} == {"gpipe" if spelling == "gpipe" else "1f1b"}


def test_no_interval_reaches_above_one_per_rank(predict: Predict) -> None:
    for row in rows(predict("--nodes", "16", "--json")):
        assert row["speedup_high"] <= max(row["speedup"], row["ranks"])


def test_checkpoints_add_their_share_to_every_step(predict: Predict, tmp_path: Path) -> None:
    path = tmp_path / "with_storage.json"
    write_machine(machine(storage=storage()), path)
    options = ("--machine", str(path), "--nodes", "4", "--net", "6-5-3", "--batch", "8", "--json")
    without = rows(predict(*options))
    often, seldom = (rows(predict(*options, "--checkpoint-every", k)) for k in ("2", "8"))
    assert {row["breakdown"]["checkpoint_s"] for row in without} == {0.0}
    for row, two, eight in zip(without, often, seldom, strict=True):
        for each, every in ((two, 2), (eight, 8)):
            cost_s = each["breakdown"]["checkpoint_s"] * every
            assert cost_s >= storage().fixed_s
            assert each["step_time_s"] == pytest.approx(
                row["step_time_s"] + cost_s / every, rel=SAME
            )
    table = predict(*options[:-1], "--checkpoint-every", "8").stdout
    assert "ckpt" in table
    assert "ckpt" not in predict(*options[:-1]).stdout


def test_krizhevsky_s_hybrid_is_tried_where_the_network_admits_it(predict: Predict) -> None:
    found = rows(predict("--nodes", "4", "--net", "svhn-cnn", "--batch", "64", "--json"))
    own = [row for row in found if row["strategy"] == "krizhevsky"]
    assert [row["nodes"] for row in own] == [2, 4]
    assert all(row["mesh"]["tp"] > 1 and row["mesh"]["pp"] == 1 for row in own)
    dense = rows(predict("--nodes", "4", "--json"))
    assert "krizhevsky" not in {row["strategy"] for row in dense}
    refused(predict("--nodes", "4", "--strategy", "krizhevsky"), "needs convolutions and dense")


def test_pipelines_are_cut_by_the_machine_and_say_so(predict: Predict) -> None:
    pipe = ("--nodes", "2", "--net", "svhn-cnn", "--batch", "64", "--dp", "1", "--pp", "2", "--tp", "1")  # fmt: skip
    (chosen,) = rows(predict(*pipe, "--json"))
    assert len(chosen["stages"]) == 2
    assert chosen["stages"][0]["first_layer"] == "conv1"
    times_s = [stage["time_s"] for stage in chosen["stages"]]
    assert chosen["imbalance"] == pytest.approx(2 * max(times_s) / sum(times_s), rel=SAME)
    costliest = []
    for layer in ("conv2", "fc1", "fc2"):
        micro = ("--microbatches", str(chosen["microbatches"]))
        (row,) = rows(predict(*pipe, *micro, "--stages", layer, "--json"))
        assert row["stages"][1]["first_layer"] == layer
        costliest.append(max(stage["time_s"] for stage in row["stages"]))
    assert max(times_s) == pytest.approx(min(costliest), rel=SAME)
    refused(predict("--nodes", "2", "--stages", "fc1", "--net", "svhn-cnn"), "stages needs a mesh")
    refused(predict(*pipe, "--stages", "fc3"), "stages must be")
    assert f"begin at conv1, {chosen['stages'][1]['first_layer']}" in predict(*pipe).stdout


def test_memory_is_broken_down_and_its_parts_are_the_whole(predict: Predict) -> None:
    asked = ("--nodes", "4", "--net", "svhn-cnn", "--batch", "64")
    for row in rows(predict(*asked, "--json")):
        parts = {name: value for name, value in row["memory"].items() if name.endswith("_bytes")}
        assert sum(parts.values()) == row["memory_bytes"]
        assert row["memory"]["num_slots"] >= 1
        is_pipe = row["mesh"]["pp"] > 1
        assert set(row["memory_by_schedule"]) == ({"gpipe", "1f1b"} if is_pipe else set())
        if is_pipe:
            assert row["memory_by_schedule"][row["schedule"]] == row["memory_bytes"]
    assert "activations" not in predict(*asked).stdout
    assert "activations" in predict(*asked, "--memory").stdout


def test_sharing_statistics_costs_messages_only_where_there_are_any(predict: Predict) -> None:
    asked = ("--nodes", "2", "--net", "resnet18-small", "--batch", "32", "--strategy", "data", "--json")  # fmt: skip
    own, shared = (rows(predict(*asked, *more))[-1] for more in ((), ("--sync-batchnorm",)))
    assert shared["sync_batchnorm"]
    assert shared["step_time_s"] > own["step_time_s"]
    plain = predict("--nodes", "2", "--strategy", "data", "--sync-batchnorm")
    assert "sync-batchnorm changes nothing" in plain.stdout
    refused(predict("--strategy", "averaging", "--sync-batchnorm"), "sync-batchnorm needs ranks")


def test_fabrics_and_slow_links_and_ranks_are_said_and_cost_time(predict: Predict) -> None:
    asked = ("--nodes", "4", "--strategy", "data", "--algorithm", "ring")
    plain_s = rows(predict(*asked, "--json"))[-1]["step_time_s"]
    for more in (("--fabric", "tree:racks=2,uplink=800kbit"), ("--slow-link", "3=0.2"), ("--slow-link", "3=800kbit"), ("--slow", "3=2")):  # fmt: skip
        answer = predict(*asked, *more, "--json")
        assert rows(answer)[-1]["step_time_s"] > 1.05 * plain_s
        assert json.loads(answer.stdout)["idle_options"] == []
    both = predict(*asked, "--fabric", "tree:racks=2,uplink=800kbit", "--slow", "3=2.0").stdout
    assert "fabric: tree of 2 racks, uplinks of 0.8 Mbit/s" in both
    assert "rank 3 computes 2 times as long" in both
    assert "changes nothing" not in both


@pytest.mark.parametrize("more, name", [
    (("--fabric", "star"), "fabric"), (("--slow-link", "3=1"), "slow-link"), (("--slow", "1=1"), "slow"),
    (("--fabric", "tree:racks=2,oversubscription=1"), "fabric"),
])  # fmt: skip
def test_what_changes_nothing_is_named(predict: Predict, more: tuple[str, ...], name: str) -> None:
    asked = ("--nodes", "4", "--strategy", "data", "--algorithm", "ring", *more)
    assert f"note: {name} changes nothing in any of these plans" in predict(*asked).stdout
    assert json.loads(predict(*asked, "--json").stdout)["idle_options"] == [name]


def test_a_fabric_that_cannot_be_is_refused(predict: Predict) -> None:
    refused(predict("--nodes", "8", "--fabric", "torus:2x2"), "fabric must have room for 8 nodes")
    refused(predict("--nodes", "8", "--fabric", "ring"), "fabric must be star, tree")
    refused(predict("--nodes", "2", "--slow-link", "2=0.5"), "slow-link must name nodes 0 .. 1")


def test_a_machine_s_slow_nodes_and_links_are_those_of_the_command_line(
    predict: Predict, tmp_path: Path
) -> None:
    fabric = FabricModel(links={"node2": LinkSpeed(share=0.2)})
    path = tmp_path / "slow.json"
    for told, by_hand in (
        ({"node_slowness": {3: 2.0}}, ("--slow", "3=2")), ({"fabric": fabric}, ("--slow-link", "2=0.2")),
    ):  # fmt: skip
        write_machine(machine(compute=compute(noise_rel_sigma=0.02, step_overhead_s=1e-4), **told), path)  # fmt: skip
        for strategy in (("--strategy", "data"), ()):  # one plan, and the search
            asked = ("--nodes", "4", *strategy, "--json")
            own = [row["step_time_s"] for row in rows(predict(*asked, "--machine", str(path)))]
            assert own == [row["step_time_s"] for row in rows(predict(*asked, *by_hand))]
            assert own != [row["step_time_s"] for row in rows(predict(*asked))]
    shown = predict("--nodes", "4", "--machine", str(path)).stdout
    assert "node2 has 0.2 of it" in shown


def test_a_trace_has_the_slow_rank(predict: Predict, tmp_path: Path) -> None:
    path, spans = tmp_path / "step.json", {}
    for more in ((), ("--slow", "1=4")):
        rows(predict("--nodes", "2", "--strategy", "data", "--trace", str(path), *more, "--json"))
        events = json.loads(path.read_text())["traceEvents"]
        spans[more] = max(each["dur"] for each in events if each["ph"] == "X" and each["pid"] == 1)
    assert spans["--slow", "1=4"] > 2 * spans[()]
