"""The command line of the schemes by which replicas talk: what they train, what they refuse."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from exec.plan.strategy import Strategy
from tests.conftest import LaunchEach
from tests.exec.random_plans import SCHEMES
from tests.exec.test_train import assert_one_error, assert_one_error_each, record_of, train

TINY = ("--net", "128-6-26", "--num-train", "200", "--num-test", "40", "--epochs", "2")
ASYNC = (*TINY, "--strategy", "async_server", "--ranks", 3)

BAD = {
    "every 0": (("--average-every", 0, "--strategy", "averaging", "--ranks", 2), "average-every must be a whole number of at least 1, or epoch, got '0'"),
    "every negative": (("--average-every", -1, "--strategy", "averaging", "--ranks", 2), "average-every must be a whole number of at least 1, or epoch, got '-1'"),
    "every word": (("--average-every", "x", "--strategy", "averaging", "--ranks", 2), "average-every must be a whole number of at least 1, or epoch, got 'x'"),
    "all serve": (("--servers", 3, "--strategy", "server", "--ranks", 3), "servers must be at least 1 and leave a worker of the 3 ranks, got 3"),
    "more servers than ranks": (("--servers", 4, "--strategy", "async_server", "--ranks", 3), "servers must be at least 1 and leave a worker of the 3 ranks, got 4"),
    "no server": (("--servers", 0, "--strategy", "server", "--ranks", 3), "servers must be at least 1 and leave a worker of the 3 ranks, got 0"),
    "lone server": (("--strategy", "server", "--ranks", 1), "servers must be at least 1 and leave a worker of the 1 rank"),
    "lone master": (("--strategy", "master_broadcast", "--ranks", 1), "ranks must be at least 2 for master_broadcast: a master and a worker, got 1"),
    "slow stranger": (("--slow", "5=2", "--ranks", 2), "slow must name ranks 0 .. 1, each once, got '5=2'"),
    "slow twice": (("--slow", "1=2", "--slow", "1=3", "--ranks", 2), "slow must name ranks 0 .. 1, each once, got '1=3'"),
    "fast": (("--slow", "1=0.5", "--ranks", 2), "slow must have a factor of at least 1, got '1=0.5'"),
    "slow word": (("--slow", "1=x", "--ranks", 2), "slow must be a rank and a factor, such as 1=2.5, got '1=x'"),
    "starts of servers": (("--independent-starts", "--strategy", "server", "--ranks", 2), "independent-starts needs strategy averaging, got server"),
    "replay of a mesh": (("--replay", "x", "--ranks", 2), "arrivals and replay need strategy async_server, got data"),
    "replay of nothing": ((*ASYNC, "--replay", "/nowhere/a.json"), "replay must be a file that --arrivals wrote, got /nowhere/a.json"),
    "arrivals nowhere": ((*ASYNC, "--arrivals", "/nowhere/a.json"), "arrivals must be a file in a folder that exists"),
    "stages of servers": (("--pp", 2, "--strategy", "server", "--ranks", 4), "pp must be 1 for strategy server on 4 ranks, got 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_status_2(name: str) -> None:
    arguments, message = BAD[name]
    assert_one_error(train(*arguments), message)


@pytest.mark.parametrize(
    "text",
    ["not json", '{"ranks": 4, "arrivals": [[1, 2]]}', '{"ranks": 3, "arrivals": [[1, 2]]}',
     json.dumps({"ranks": 3, "arrivals": [[1] * 28]})],
    ids=["damaged", "ranks", "short", "hanging"],
)  # fmt: skip
def test_replay_of_another_file_is_one_message_and_status_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "arrivals.json"
    path.write_text(text, encoding="utf-8")
    assert_one_error(train(*ASYNC, "--replay", path), "error: replay must be ")


@pytest.mark.mpi
def test_bad_input_is_one_message_under_mpiexec_too(
    launch_each: LaunchEach, tmp_path: Path
) -> None:
    path = tmp_path / "arrivals.json"
    path.write_text(json.dumps({"ranks": 3, "arrivals": [[1] * 28]}), encoding="utf-8")
    hanging = ((*ASYNC, "--replay", path), "one would never be answered")
    assert_one_error_each(launch_each, 3, [BAD["all serve"], hanging])


@pytest.mark.parametrize("strategy", SCHEMES)
def test_every_scheme_trains_and_says_what_it_was(strategy: Strategy) -> None:
    record = record_of(train(*TINY, "--strategy", strategy, "--ranks", 3, "--json"))
    assert record["strategy"] == strategy
    assert record["ranks"] == 3
    first, second = record["epochs"]  # type: ignore[misc]  # a list
    if strategy not in (Strategy.ASYNC_SERVER, Strategy.SHARED_LOCK, Strategy.HOGWILD):
        assert second["loss"] < first["loss"]  # the others depend on who comes when
    served = strategy in (Strategy.SERVER, Strategy.ASYNC_SERVER)
    assert record["servers"] == (1 if served else None)
    assert (record["staleness"] is not None) == (strategy is Strategy.ASYNC_SERVER)


def test_replay_makes_the_same_bits_again(tmp_path: Path) -> None:
    recorded, again = tmp_path / "recorded.json", tmp_path / "again.json"
    saved = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    first = train(*ASYNC, "--arrivals", recorded, "--save", saved[0], "--slow", "2=3")
    assert first.returncode == 0, first.stderr
    second = train(*ASYNC, "--replay", recorded, "--arrivals", again, "--save", saved[1])
    assert second.returncode == 0, second.stderr
    assert recorded.read_bytes() == again.read_bytes()
    bits = [{name: each.tobytes() for name, each in load_file(path).items()} for path in saved]
    assert bits[0] == bits[1]
    refused = train(*ASYNC, "--replay", recorded, "--batch", 20)
    assert_one_error(refused, "use the epochs, batch and data of that run")
