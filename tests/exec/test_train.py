"""The command line, as a user meets it: ``python -m exec.train``."""

import json
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from exec.train import app
from tests.conftest import Finished, Launch, LaunchEach, run_here, run_process

SHORT = ("--num-train", "530", "--num-test", "104", "--epochs", "2")
SMALL = ("--net", "128-12-26", *SHORT)
# 530 samples are 16 batches of 32 and one of 18: 34 steps in 2 epochs at rate 0.5. A gradient is a
# mean of products; sharing reorders its sums of N = 2 (128 + 12 + 26) + 32 = 364 terms, which in
# float32 (u = 6e-8) differ by less than 6 sqrt(N) u = 7e-6 of the mean of absolute terms (Higham and
# Mary 2019), here an activation of about 1/2 times an error of about 2/26: 2.7e-7. Roundings of 34
# half steps in two runs add like sqrt(2 x 34): 1.1e-6 on a weight, and a loss of 26 classes has a
# slope below one along them.
LOSS_ABS = 2e-6
# A sample whose two likeliest classes are that close may be counted either way; allow two of 104.
ACCURACY_ABS = 2 / 104


def train(*arguments: object) -> Finished:
    """Run the command line to its end, in this process."""
    return run_here(app, arguments)


def train_apart(*arguments: object) -> Finished:
    """Run the command line to its end in a process of its own, as a user does."""
    return run_process([sys.executable, "-m", "exec.train", *map(str, arguments)])


def record_of(ended: Finished) -> dict[str, object]:
    """Return the JSON record of a run that went well."""
    assert ended.returncode == 0, ended.stderr
    found: dict[str, object] = json.loads(ended.stdout)
    return found


@pytest.fixture(scope="session")
def serial() -> dict[str, object]:
    """Return the record of the serial run."""
    return record_of(train(*SMALL, "--json"))


def assert_same_curve(record: dict[str, object], serial: dict[str, object]) -> None:
    """Assert that ``record`` trained as ``serial`` did."""
    pairs = list(zip(record["epochs"], serial["epochs"], strict=True))  # type: ignore[call-overload]  # lists
    for epoch, expected in pairs:
        assert epoch["loss"] == pytest.approx(expected["loss"], rel=0, abs=LOSS_ABS)
        assert epoch["test_accuracy"] == pytest.approx(
            expected["test_accuracy"], rel=0, abs=ACCURACY_ABS
        )


def test_json_record_says_what_was_run_and_how_it_went(serial: dict[str, object]) -> None:
    assert serial["strategy"] == "serial"
    assert serial["ranks"] == 1
    assert serial["mesh"] == {"dp": 1, "pp": 1, "tp": 1}
    step_time_s, samples_per_s = serial["step_time_s"], serial["samples_per_s"]
    assert isinstance(step_time_s, float)
    assert samples_per_s == pytest.approx(32 / step_time_s, rel=1e-12, abs=0)  # one division
    epochs = serial["epochs"]
    assert isinstance(epochs, list)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    for epoch in epochs:
        assert set(epoch) == {"epoch", "loss", "test_accuracy", "time_s", "sent_bytes"}
        assert 0 <= epoch["test_accuracy"] <= 1
        assert epoch["time_s"] > 0
    assert epochs[1]["loss"] < epochs[0]["loss"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_record_says_what_was_allocated_and_how_the_process_grew(ranks: int) -> None:
    big = ("--net", "cnn:1x16x8:26", "--batch", 2048, "--num-train", 4096, "--num-test", 16)
    record = record_of(train_apart(*big, "--ranks", ranks, "--epochs", 1, "--json"))
    memory = record["memory"]
    assert isinstance(memory, dict)
    allocated = memory["allocated_bytes"]
    assert len(allocated) == ranks
    assert record["memory_bytes"] == max(allocated)
    assert memory["is_growth_of_all_ranks"] is (ranks > 1)
    # Threads share a process. It has the arrays, less what it was larger before, and the libraries'.
    assert 0.5 < memory["peak_growth_bytes"] / sum(allocated) < 2


SHARED = [
    ("--strategy", "data", "--ranks", 2),
    ("--strategy", "data", "--ranks", 3, "--algorithm", "ring", "--overlap", "--bucket-kib", 1),
    ("--strategy", "data", "--ranks", 4, "--algorithm", "halving-doubling"),
    ("--strategy", "pipeline", "--ranks", 2, "--microbatches", 4),
    ("--strategy", "pipeline", "--ranks", 2, "--microbatches", 3, "--schedule", "gpipe"),
    ("--strategy", "tensor", "--ranks", 3),
    ("--strategy", "tensor", "--ranks", 4, "--algorithm", "recursive-doubling"),
    ("--strategy", "data", "--ranks", 6, "--algorithm", "hierarchical", "--ranks-per-node", 3),
    ("--dp", 4, "--tp", 2, "--ranks", 8, "--algorithm", "hierarchical", "--ranks-per-node", 4),
    ("--dp", 2, "--pp", 2, "--ranks", 4, "--microbatches", 2),
    ("--dp", 2, "--tp", 2, "--ranks", 4, "--algorithm", "binomial-tree"),
    ("--pp", 2, "--tp", 2, "--ranks", 4),
]


@pytest.mark.parametrize("options", SHARED, ids=lambda options: "_".join(map(str, options)))
def test_every_strategy_has_the_serial_loss_curve(
    options: tuple[object, ...], serial: dict[str, object]
) -> None:
    record = record_of(train(*SMALL, *options, "--json"))
    assert record["ranks"] == options[options.index("--ranks") + 1]
    assert_same_curve(record, serial)


@pytest.mark.parametrize("ranks", [3, 4])
def test_deep_pipeline_has_the_serial_loss_curve(ranks: int) -> None:
    deep = (*SHORT, "--net", "128-12-11-10-26")
    alone = record_of(train(*deep, "--json"))
    assert_same_curve(
        record_of(
            train(*deep, "--strategy", "pipeline", "--ranks", ranks, "--microbatches", 4, "--json")
        ),
        alone,
    )


@pytest.mark.mpi
def test_mpi_has_the_serial_loss_curve(launch: Launch, serial: dict[str, object]) -> None:
    record = record_of(launch(2, "exec.train", *SMALL, "--json"))
    assert record["strategy"] == "data"
    assert record["ranks"] == 2
    assert_same_curve(record, serial)


@pytest.mark.mpi
def test_meshes_on_mpi_have_the_serial_loss_curve(
    launch_each: LaunchEach, serial: dict[str, object]
) -> None:
    meshes = (("--strategy", "pipeline", "--microbatches", 2), ("--strategy", "tensor"))
    lines = [(*SMALL, *options, "--json") for options in meshes]
    for options, (first, other) in zip(meshes, launch_each(2, "exec.train", lines), strict=True):
        record = record_of(first)
        assert (record["strategy"], record["ranks"]) == (options[1], 2)
        assert_same_curve(record, serial)
        assert (other.returncode, other.stdout, other.stderr) == (0, "", "")  # only rank 0 speaks


def test_text_tells_what_runs_each_epoch_and_the_step_time() -> None:
    ended = train_apart(*SMALL, "--ranks", 2)
    assert ended.returncode == 0
    assert ended.stderr == ""
    for piece in (
        "128-12-26 on drawn (530 training, 104 test samples",
        "strategy data on 2 ranks (dp x pp x tp = 2x1x1), batch 32",
        "epoch   1  loss ",
        "epoch   2  loss ",
        "us a step",
        "samples/s",
    ):
        assert piece in ended.stdout


@pytest.mark.parametrize("options, expected", [
    (("--algorithm", "hierarchical"), "algorithm hierarchical is shared_window here: one node has all replicas"),
    (("--algorithm", "hierarchical", "--overlap"), "is the ring here: with 4 ranks on a node"),
    (("--algorithm", "hierarchical", "--ranks-per-node", 2), ""),
    (("--algorithm", "ring", "--ranks-per-node", 2), "ranks-per-node changes nothing for algorithm ring"),
    (("--algorithm", "ring"), ""),
], ids=str)  # fmt: skip
def test_ranks_per_node_are_said_to_change_nothing_where_they_do(
    options: tuple[object, ...], expected: str
) -> None:
    ended = train(*SMALL, "--ranks", 4, *options)
    assert ended.returncode == 0, ended.stderr
    notes = [
        line
        for line in ended.stdout.splitlines()
        if any(each in line for each in ("changes nothing", "ring here", "shared_window here"))
    ]
    assert len(notes) == bool(expected)
    assert expected in "".join(notes)


def test_saved_weights_load_bit_by_bit_on_another_mesh(tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    pipeline = ("--strategy", "pipeline", "--ranks", 2)
    assert train(*SMALL, *pipeline, "--save", first).returncode == 0
    # A rate of 1e-30 changes no float32 weight above 1e-22.
    still = ("--strategy", "tensor", "--ranks", 2, "--lr", 1e-30)
    again = train(*SMALL, *still, "--load", first, "--save", second)
    assert again.returncode == 0, again.stderr
    before, after = (
        {name: tensor.tobytes() for name, tensor in load_file(path).items()}
        for path in (first, second)
    )
    assert before == after
    assert sorted(before) == [f"linear{i}.{name}" for i in range(2) for name in ("bias", "weight")]
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_training_goes_on_from_loaded_weights(tmp_path: Path, serial: dict[str, object]) -> None:
    path = tmp_path / "model.safetensors"
    assert train(*SMALL, "--save", path).returncode == 0
    more = record_of(train(*SMALL, "--load", path, "--json"))
    assert more["epochs"][0]["loss"] < serial["epochs"][-1]["loss"]  # type: ignore[index]  # lists


@pytest.mark.parametrize(
    ("options", "comm"),
    [((), {"written", "accumulate", "updated"}), (("--algorithm", "library"), {"bucket0"})],
    ids=["window", "library"],
)
def test_trace_has_a_process_for_each_rank(
    tmp_path: Path, options: tuple[str, ...], comm: set[str]
) -> None:
    path = tmp_path / "trace.json"
    # Batches of 4 make 265 steps, so that some are timed.
    assert train(*SMALL, "--batch", 4, "--ranks", 3, "--trace", path, *options).returncode == 0
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1, 2}
    names = {event["name"] for event in events if event["ph"] == "X"}
    assert {
        "load.0.0",
        "linear.0.0",
        "sigmoid.1.0",
        "linear.2.0",
        "loss.2.0",
        "update.0.0",
        *comm,
    } <= names


BAD = {
    "mesh": (("--ranks", 4, "--strategy", "hybrid", "--dp", 3, "--pp", 1), "dp x pp x tp must be the number of ranks, 4"),
    "stages": (("--ranks", 3, "--strategy", "pipeline"), "pp must be at most the 2 layers of 128-100-26 at which a stage can begin, got 3 stages"),
    "small batch": (("--ranks", 4, "--batch", 3), "batch must be at least dp x microbatches = 4 x 1 = 4, got 3"),
    "large batch": (("--num-train", 20, "--batch", 21), "batch must be at most the 20 training samples"),
    "no batch": (("--batch", 0), "batch must be at least 1, got 0"),
    "uneven nodes": (("--ranks", 4, "--algorithm", "hierarchical", "--ranks-per-node", 3), "ranks-per-node must put equally many ranks of a dp group on each of its nodes for algorithm hierarchical, got 3"),
    "no ranks on a node": (("--ranks", 2, "--ranks-per-node", 0), "ranks-per-node must be a finite number greater than 0, got 0"),
    "both batches": (("--batch", 8, "--batch-per-rank", 4), "batch and batch-per-rank must not both be given"),
    "strategy": (("--strategy", "pipelin"), 'Did you mean "pipeline"?'),
    "algorithm": (("--algorithm", "rign"), 'Did you mean "ring"?'),
    "data": (("--data", "leters"), "did you mean 'letters'?"),
    "data on ranks": (("--data", "leters", "--ranks", 2), "did you mean 'letters'?"),
    "flag": (("--epoch", 3), "--epoch"),
    "rate nan": (("--lr", "nan"), "learning-rate must be a finite number greater than 0, got nan"),
    "rate negative": (("--lr", -0.5), "learning-rate must be a finite number greater than 0, got -0.5"),
    "rate word": (("--lr", "fast"), "fast"),
    "rate diverges": ((*SMALL, "--lr", 1e300), "use a smaller learning-rate"),
    "rate diverges on ranks": ((*SMALL, "--lr", 1e300, "--ranks", 2), "use a smaller learning-rate"),
    "epochs": (("--epochs", -1), "epochs must be a finite number greater than 0, got -1"),
    "momentum one": (("--momentum", 1), "momentum must be less than 1, got 1.0"),
    "momentum negative": (("--momentum", -0.1), "momentum must be a finite number at least 0, got -0.1"),
    "ranks": (("--ranks", 0), "ranks must be at least 1, got 0"),
    "seed": (("--seed", -1), "seed must be at least 0, got -1"),
    "dtype": (("--dtype", "float16"), "dtype must be one of float32, float64, got 'float16'"),
    "net": (("--net", "128-x-26"), "net must be widths joined by '-'"),
    "net for data": (("--net", "64-12-26"), "for example --net 128-12-26"),
    "net for data on ranks": (("--net", "64-12-26", "--ranks", 2), "for example --net 128-12-26"),
    "data dir": (("--data", "letters", "--data-dir", "/nowhere"), "letters needs letter.data.gz or letter.data in /nowhere"),
    "save": (("--save", "/nowhere/model"), "save must be a file in a folder that exists"),
    "trace": (("--trace", "/"), "trace must be a file in a folder that exists"),
    "load": (("--load", "/nowhere/model"), "load must be a safetensors file, got /nowhere/model, which is no file"),
}  # fmt: skip


def assert_one_error(ended: Finished, message: str) -> None:
    """Assert that the run ended as the user's mistake: status 2 and one message, nothing else."""
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("error:") == 1, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Warning" not in ended.stderr


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_status_2(name: str) -> None:
    arguments, message = BAD[name]
    assert_one_error(train(*arguments), message)


@pytest.mark.parametrize("ranks", [1, 2])
def test_broken_model_file_is_one_message_and_status_2(tmp_path: Path, ranks: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x10" + b"\0" * 7 + b"not a header at all")
    ended = train(*SMALL, "--load", path, "--ranks", ranks)
    assert_one_error(ended, f"{path} must be a whole safetensors file")


def test_other_net_s_model_file_is_one_message_and_status_2(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert train(*SMALL, "--save", path).returncode == 0
    ended = train(*SHORT, "--net", "128-13-26", "--load", path)
    assert_one_error(ended, "linear0.weight must be (13, 128) for net 128-13-26")


@pytest.mark.parametrize("name", ["flag", "mesh", "rate diverges on ranks"])
def test_a_process_ends_with_one_message_and_status_2_too(name: str) -> None:
    arguments, message = BAD[name]
    assert_one_error(train_apart(*arguments), message)


def launched(arguments: tuple[object, ...]) -> list[str]:
    """Return ``arguments`` without the number of ranks, which a launcher says."""
    words = [str(word) for word in arguments]
    if "--ranks" in words:
        del words[words.index("--ranks") : words.index("--ranks") + 2]
    return words


# Before MPI starts, and where ranks agree in the midst of it.
@pytest.mark.mpi
@pytest.mark.parametrize("name", ["flag", "rate diverges"])
def test_bad_input_is_one_message_under_mpiexec_too(launch: Launch, name: str) -> None:
    arguments, message = BAD[name]
    assert_one_error(launch(2, "exec.train", *launched(arguments)), message)


def assert_one_error_each(
    launch_each: LaunchEach, ranks: int, bad: list[tuple[tuple[object, ...], str]]
) -> None:
    """Assert that all ranks end with status 2 on each of ``bad``, and only rank 0 says why."""
    lines = [launched(arguments) for arguments, _ in bad]
    for on_ranks, (_, message) in zip(launch_each(ranks, "exec.train", lines), bad, strict=True):
        assert_one_error(on_ranks[0], message)
        for other in on_ranks[1:]:
            assert (other.returncode, other.stdout, other.stderr) == (2, "", "")


@pytest.mark.mpi
def test_bad_input_is_one_message_of_many_ranks(launch_each: LaunchEach) -> None:
    names = ["small batch", "uneven nodes", "data on ranks", "net for data", "rate diverges"]
    assert_one_error_each(launch_each, 4, [BAD[name] for name in names])


ENDLESS = ("--net", "128-12-26", "--num-train", "5000", "--epochs", "1000000")


@pytest.mark.parametrize(
    ("moment", "options"),
    [
        ("strategy", ()),
        ("epoch", ()),
        ("strategy", ("--ranks", "3")),
        ("epoch", ("--ranks", "3", "--algorithm", "ring")),
        ("epoch", ("--ranks", "2", "--strategy", "pipeline")),
        ("epoch", ("--ranks", "2", "--strategy", "tensor")),
    ],
)
def test_ctrl_c_ends_threads_with_status_130(moment: str, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "exec.train", *ENDLESS, *options]
    ended = run_process(command, timeout_s=20, interrupt_at=moment)
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr == "error: interrupted\n"


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_ctrl_c_ends_mpi_without_a_traceback(launch: Launch, ranks: int) -> None:
    ended = launch(ranks, "exec.train", *ENDLESS, timeout_s=20, interrupt_at="epoch")
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr


def test_real_letters_are_learnt_in_one_epoch(real_data: Path) -> None:
    record = record_of(train("--data", "letters", "--data-dir", real_data, "--epochs", 1, "--json"))
    assert record["epochs"][0]["test_accuracy"] > 0.6  # type: ignore[index]  # a list
