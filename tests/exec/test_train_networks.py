"""The command line on networks that are graphs: named ones, files, and what does not go together."""

from pathlib import Path

import pytest

from tests.conftest import LaunchEach
from tests.exec.test_train import (
    assert_one_error,
    assert_one_error_each,
    record_of,
    train,
    train_apart,
)

SHORT = ("--num-train", 96, "--num-test", 16, "--epochs", 3, "--lr", 0.02)
CNN = ("--net", "cnn:1x16x8:26", *SHORT)
RESIDUAL = """
image = [1, 16, 8]

[[layer]]
kind = "conv2d"
name = "stem"
filters = 4
kernel = 3
padding = "same"

[[layer]]
kind = "batchnorm2d"

[[layer]]
kind = "relu"
name = "trunk"

[[layer]]
kind = "conv2d"
name = "branch"
filters = 4
kernel = 3
padding = "same"
bias = false

[[layer]]
kind = "batchnorm2d"
name = "normed"

[[layer]]
kind = "add"
inputs = ["normed", "trunk"]

[[layer]]
kind = "maxpool"
kernel = 2
stride = 2

[[layer]]
kind = "conv2d"
name = "narrow"
filters = 3
kernel = 1

[[layer]]
kind = "flatten"

[[layer]]
kind = "linear"
name = "logits"
units = 26
"""


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a network file with a residual block."""
    path = tmp_path_factory.mktemp("nets") / "residual.toml"
    path.write_text(RESIDUAL, encoding="utf-8")
    return path


def losses_of(record: dict[str, object]) -> list[float]:
    """Return the loss of each epoch."""
    return [epoch["loss"] for epoch in record["epochs"]]  # type: ignore[attr-defined]  # a list


@pytest.mark.parametrize("options", [
    CNN,
    (*CNN, "--ranks", 2, "--strategy", "krizhevsky"),
    ("--net", "cnn:3x6x10:3", "--data", "noise", *SHORT),
    ("--net", "svhn-cnn:3x32x32:4", "--data", "noise", *SHORT, "--ranks", 2, "--strategy", "tensor"),
    ("--net", "resnet18-small:1x16x8:26", "--num-train", 32, "--num-test", 8, "--batch", 16, "--epochs", 2, "--lr", 0.02),
], ids=lambda options: "_".join(map(str, options[1:2] + options[-3:])))  # fmt: skip
def test_named_network_learns(options: tuple[object, ...]) -> None:
    record = record_of(train(*options, "--json"))
    assert record["net"] == options[1]
    losses = losses_of(record)
    assert losses[-1] < losses[0]


# 9 steps in float64: differences of 1e-16 grow by less than 10^4, divided by small deviations.
LOSS_ABS = 1e-10


PRECISE = (*SHORT, "--dtype", "float64", "--json")


@pytest.fixture(scope="module")
def alone(residual: Path) -> list[float]:
    """Return the losses of one rank."""
    return losses_of(record_of(train("--net", residual, *PRECISE)))


@pytest.mark.mpi
@pytest.mark.parametrize(("ranks", "plans"), [
    (2, (("--sync-batchnorm",), ("--strategy", "tensor"))),
    (3, (("--strategy", "pipeline", "--stages", "narrow,logits"),)),
    (4, (("--strategy", "krizhevsky", "--dp", 2, "--tp", 2, "--sync-batchnorm"),)),
])  # fmt: skip
def test_network_file_on_mpi_has_the_serial_loss_curve(
    launch_each: LaunchEach, residual: Path, alone: list[float], ranks: int,
    plans: tuple[tuple[object, ...], ...],
) -> None:  # fmt: skip
    lines = [("--net", residual, *PRECISE, *options) for options in plans]
    assert alone[-1] < alone[0]
    for first, *_ in launch_each(ranks, "exec.train", lines):
        assert losses_of(record_of(first)) == pytest.approx(alone, rel=0, abs=LOSS_ABS)


BAD = {
    "image": (("--net", "cnn"), "net must take the 1x16x8 images of drawn and tell its 26 classes apart, got cnn with 1x28x28 and 10"),
    "channels": (("--net", "cnn:3x16x8:26"), "for example --net cnn:1x16x8:26"),
    "image on ranks": (("--net", "resnet18-small", "--ranks", 2), "for example --net resnet18-small:1x16x8:26"),
    "no file": (("--net", "absent.toml"), "net absent.toml cannot be read: No such file or directory"),
    "unknown stage": ((*CNN, "--ranks", 2, "--strategy", "pipeline", "--stages", "conv3"), "stages must be one of conv2, fc, got 'conv3'; did you mean 'conv2'?"),
    "stage without weights": ((*CNN, "--ranks", 2, "--strategy", "pipeline", "--stages", "pool1"), "can begin (conv2, fc), got pool1"),
    "stages out of order": ((*CNN, "--ranks", 3, "--strategy", "pipeline", "--stages", "fc,conv2"), "stages must be, in order, some of the layers at which one of cnn:1x16x8:26 can begin (conv2, fc), got fc, conv2"),
    "too many names": ((*CNN, "--ranks", 2, "--strategy", "pipeline", "--stages", "conv2,fc"), "stages must name 1 of the layers, the first of each stage but the first with pp 2, got 2"),
    "stages of no pipeline": ((*CNN, "--ranks", 2, "--stages", "fc"), "stages need a pipeline; use --strategy pipeline or --pp"),
    "too many stages": ((*CNN, "--ranks", 4, "--strategy", "pipeline"), "pp must be at most the 3 layers of cnn:1x16x8:26 at which a stage can begin, got 4 stages"),
    "too many shards": ((*CNN, "--ranks", 17, "--strategy", "tensor"), "tp must be at most the 16 channels or units that layer conv1 of cnn:1x16x8:26 splits, got 17"),
    "krizhevsky on dense layers": (("--ranks", 2, "--strategy", "krizhevsky"), "strategy krizhevsky needs convolutions and dense layers behind them, got net 128-100-26"),
    "krizhevsky in stages": ((*CNN, "--ranks", 4, "--strategy", "krizhevsky", "--pp", 2), "pp must be 1 for strategy krizhevsky on 4 ranks, got 2"),
    "sync of averages": ((*CNN, "--ranks", 2, "--strategy", "averaging", "--sync-batchnorm"), "sync-batchnorm needs ranks that take every step together, got strategy averaging"),
    "sync of servers": ((*CNN, "--ranks", 2, "--strategy", "server", "--sync-batchnorm"), "sync-batchnorm needs ranks that take every step together, got strategy server"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together_is_one_message_and_status_2(name: str) -> None:
    arguments, message = BAD[name]
    assert_one_error(train(*arguments), message)


@pytest.mark.mpi
def test_it_is_one_message_under_mpiexec_too(launch_each: LaunchEach) -> None:
    names = ["unknown stage", "krizhevsky on dense layers", "image on ranks"]
    assert_one_error_each(launch_each, 2, [BAD[name] for name in names])


@pytest.mark.parametrize(("options", "idle"), [
    ((*CNN, "--ranks", 2, "--sync-batchnorm"), True),
    ((*CNN, "--ranks", 2), False),
])  # fmt: skip
def test_sync_batchnorm_is_said_to_change_nothing_where_nothing_is_normalised(
    options: tuple[object, ...], idle: bool
) -> None:
    ended = train(*options)
    assert ended.returncode == 0, ended.stderr
    assert ("sync-batchnorm changes nothing" in ended.stdout) is idle


def test_a_net_that_no_memory_holds_is_one_message_before_it_is_made() -> None:
    ended = train_apart(
        "--net", "1000-9000000-1000", "--data", "noise", "--num-train", 32, "--num-test", 1
    )
    assert_one_error(ended, "must fit into its memory")


def test_a_training_from_a_moved_network_file_goes_on(residual: Path, tmp_path: Path) -> None:
    moved, kept = tmp_path / "moved.toml", ("--checkpoint", tmp_path / "kept")
    train("--net", residual, *SHORT, *kept)
    moved.write_text(residual.read_text(encoding="utf-8"), encoding="utf-8")
    again = train("--net", moved, *SHORT, *kept, "--resume")
    assert again.returncode == 0, again.stderr
    changed = moved.read_text(encoding="utf-8").replace("filters = 4", "filters = 5")
    moved.write_text(changed, encoding="utf-8")
    assert_one_error(train("--net", moved, *SHORT, *kept, "--resume"), "net must be")


def test_a_loss_far_above_that_of_guessing_is_pointed_out(residual: Path) -> None:
    wild = train("--net", residual, *SHORT[:-2], "--lr", 50)
    assert "try a smaller learning-rate" in wild.stdout + wild.stderr
    calm = train(*CNN)
    assert calm.returncode == 0
    assert "try a smaller" not in calm.stdout


def test_the_record_says_what_was_trained_and_how(residual: Path) -> None:
    options = ("--lr", 0.03, "--momentum", 0.5, "--seed", 7, "--ranks", 2, "--strategy", "pipeline")
    record = record_of(train("--net", residual, *SHORT[:-2], *options, "--json"))
    assert (record["learning_rate"], record["momentum"], record["seed"]) == (0.03, 0.5, 7)
    assert len(record["stages"]) == 2  # type: ignore[arg-type]  # a list
    assert len(str(record["net_digest"])) == 16
    low_s, high_s = record["step_time_p10_s"], record["step_time_p90_s"]
    assert 0 < low_s <= record["step_time_s"] <= high_s  # type: ignore[operator]  # numbers
