"""The command line with ``--device``: an emulated GPU everywhere, a real one where there is one."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError
from tests.conftest import Launch
from tests.exec.test_train import (
    SHORT,
    SMALL,
    assert_one_error,
    assert_same_curve,
    record_of,
    serial,
    train,
)

__all__ = ["serial"]  # a fixture


def test_a_device_trains_as_the_host_does(
    device_kind: DeviceKind, serial: dict[str, object]
) -> None:
    record = record_of(train(*SMALL, "--device", device_kind, "--json"))
    assert_same_curve(record, serial)
    device = record["device"]
    assert isinstance(device, dict)
    assert device["kind"] == device_kind
    assert device["is_tf32"] is False
    assert record["provenance"]["gpu"] == device["name"]  # type: ignore[index]  # a dict
    assert record["step_time_s"] > 0  # type: ignore[operator]  # a number
    assert record["timed_step"]["compute_s"] > 0  # type: ignore[index]  # a dict


@pytest.mark.parametrize("options", [
    ("--ranks", 2), ("--ranks", 2, "--strategy", "pipeline", "--microbatches", 2),
    ("--ranks", 2, "--strategy", "tensor"), ("--ranks", 3, "--strategy", "server"),
])  # fmt: skip
def test_ranks_that_share_a_device_train_as_the_host_does(
    device_kind: DeviceKind, serial: dict[str, object], options: tuple[object, ...]
) -> None:
    shared = ("--device", device_kind, "--transport", "threads")
    assert_same_curve(record_of(train(*SMALL, *options, *shared, "--json")), serial)


@pytest.mark.mpi
def test_processes_that_share_a_device_train_as_the_host_does(
    device_kind: DeviceKind, serial: dict[str, object], launch: Launch
) -> None:
    ended = launch(2, "exec.train", *SMALL, "--device", device_kind, "--transport", "mpi", "--json")
    assert_same_curve(record_of(ended), serial)
    assert "host-staged" in json.loads(ended.stdout)["device"]["wire"]


HEADLESS = """
image = [1, 16, 8]
layer = [
    { kind = "conv2d", filters = 26, kernel = [16, 8] },
    { kind = "flatten" },
]
"""
BRANCHED = """
image = [1, 16, 8]
layer = [
    { kind = "conv2d", name = "trunk", filters = 4, kernel = 3, padding = "same" },
    { kind = "flatten", name = "flat" },
    { kind = "conv2d", name = "branch", input = "trunk", filters = 3, kernel = 3, padding = "same" },
    { kind = "flatten", name = "flat_branch" },
    { kind = "linear", name = "one", input = "flat", units = 26 },
    { kind = "linear", name = "other", input = "flat_branch", units = 26 },
    { kind = "add", inputs = ["one", "other"] },
]
"""


@pytest.mark.parametrize("text", [HEADLESS, BRANCHED], ids=["headless", "branched"])
def test_images_flattened_where_others_read_them_are_the_host_s(
    device_kind: DeviceKind, tmp_path: Path, text: str
) -> None:
    net = tmp_path / "net.toml"
    net.write_text(text, encoding="utf-8")
    options = ("--net", net, *SHORT, "--lr", "0.1", "--dtype", "float64", "--json")
    own, host = (record_of(train(*options, "--device", each)) for each in (device_kind, "cpu"))
    assert_same_curve(own, host)
    assert own["epochs"][-1]["test_accuracy"] == host["epochs"][-1]["test_accuracy"]  # type: ignore[index]  # lists


def test_what_graphs_send_is_counted(emulated: DeviceKind) -> None:
    options = (*SMALL, "--ranks", 2, "--algorithm", "library", "--json")
    own, host = (record_of(train(*options, "--device", each)) for each in (emulated, "cpu"))
    assert own["device"]["wire"] == "emulated group"  # type: ignore[index]  # a dict
    assert [each["sent_bytes"] for each in own["epochs"]] == [  # type: ignore[attr-defined]  # lists
        each["sent_bytes"]
        for each in host["epochs"]  # type: ignore[attr-defined]
    ]
    assert own["sent_bytes"] == host["sent_bytes"]


def test_weights_go_to_a_device_and_back(device_kind: DeviceKind, tmp_path: Path) -> None:
    first, second, host = (tmp_path / name for name in ("first", "second", "host"))
    record_of(train(*SMALL, "--device", device_kind, "--save", first, "--json"))
    tiny = ("--lr", "1e-30", "--load", first, "--json")  # which moves no weight
    record_of(train(*SMALL, *tiny, "--device", device_kind, "--save", second))
    record_of(train(*SMALL, *tiny, "--save", host))
    bits = [{k: v.tobytes() for k, v in load_file(path).items()} for path in (first, second, host)]
    assert bits[0] == bits[1] == bits[2]


@pytest.mark.parametrize("net", [("128-12-26",), ("cnn:1x16x8:26", "--lr", "0.02")])
def test_a_resumed_training_on_a_device_ends_with_the_same_bits(
    device_kind: DeviceKind, tmp_path: Path, net: tuple[str, ...]
) -> None:
    options = ("--net", *net, "--num-train", 160, "--num-test", 32, "--momentum", "0.5",
               "--device", device_kind, "--json")  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    record_of(train(*options, "--epochs", 2, "--save", whole))
    kept = ("--checkpoint", tmp_path / "kept", "--checkpoint-every", 3, "--resume")
    record_of(train(*options, "--epochs", 1, *kept))
    record = record_of(train(*options, "--epochs", 2, *kept, "--save", parts))
    assert record["resumed_from_step"] == 5
    assert {k: v.tobytes() for k, v in load_file(whole).items()} == {
        k: v.tobytes() for k, v in load_file(parts).items()
    }


def test_the_trace_has_the_ops_of_both_lanes(device_kind: DeviceKind, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    options = ("--ranks", 2, "--transport", "threads", "--device", device_kind, "--trace", trace)
    record_of(train(*SMALL, *options, "--json"))
    events = [each for each in json.loads(trace.read_text())["traceEvents"] if each["ph"] == "X"]
    assert {"linear.0.0", "update.0.0", "bucket0"} <= {each["name"] for each in events}
    assert all(each["dur"] >= 0 for each in events)


@pytest.mark.parametrize("arguments, words", [
    (("--device", "tpu"), "device"),
    (("--tf32",), "tf32 needs --device gpu"),
    (("--transport", "nccl"), "transport nccl needs --device gpu"),
    (("--device", "emulated", "--ranks", 2, "--slow", "1=2"), "slow needs --device cpu"),
])  # fmt: skip
def test_what_does_not_go_together_is_one_line(arguments: tuple[object, ...], words: str) -> None:
    assert_one_error(train(*SMALL, *arguments), words)


def test_without_a_gpu_one_line_says_what_is_missing_and_what_to_do() -> None:
    try:
        open_device(DeviceKind.GPU, 0).close()
    except DeviceError:
        ended = train(*SMALL, "--device", "gpu")
        assert_one_error(ended, "--device gpu needs")
        assert "--device cpu" in ended.stderr
    else:
        pytest.skip("there is a GPU")
