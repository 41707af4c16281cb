"""The trainer's options as a sweep sees them: any of them, in one spelling, refused early."""

import os
from pathlib import Path

import pytest

from exec.errors import UsageError
from exec.sweeps.options import check_fixed, make_axis, without_folders


@pytest.mark.parametrize("name", ["learning-rate", "learning_rate", "--lr", "lr"])
def test_every_spelling_of_an_option_is_the_same_axis(name: str) -> None:
    axis = make_axis(name, ["0.10", "5e-1"])
    assert (axis.name, axis.option) == ("learning_rate", "--learning-rate")
    assert axis.values == (0.1, 0.5)
    assert axis.texts == ("0.10", "5e-1")


def test_values_have_the_type_of_the_option() -> None:
    assert make_axis("overlap", ["true", "false"]).values == (True, False)
    assert make_axis("algorithm", ["halving-doubling"]).values == ("halving_doubling",)
    assert make_axis("batch-per-rank", ["08"]).values == (8,)


def test_axis_of_files_keeps_their_paths_for_the_trainer_only() -> None:
    axis = make_axis("load", ["/data/a.safetensors", "b.safetensors"])
    assert axis.values == ("a.safetensors", "b.safetensors")
    assert axis.texts[0] == "/data/a.safetensors"


BAD_AXES = {
    "unknown": ("momentun", ["1"], "vary must be one of .*, got 'momentun'; did you mean 'momentum'"),
    "word": ("batch", ["many"], 'exec.train: .*--batch: "many" is not a whole number'),
    "part": ("batch", ["1.5"], '"1.5" is not a whole number'),
    "choice": ("strategy", ["dat"], 'Did you mean "data"'),
    "nan": ("lr", ["nan"], "learning-rate must be finite numbers, got nan"),
    "twice": ("lr", ["0.5", "5e-1"], "learning-rate must not repeat a value, got 0.5 twice"),
    "seed": ("seed", ["1"], "seed must not be varied; give the sweep --seed, the first run's, and --repeats"),
    "transport": ("transport", ["mpi"], "transport must not be varied; give --transport"),
    "json": ("json", ["true"], "json must not be varied"),
    "save": ("save", ["model"], "save must not be varied; every cell would write over"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_AXES)
def test_bad_axis_is_refused(name: str) -> None:
    option, values, message = BAD_AXES[name]
    with pytest.raises(UsageError, match=message):
        make_axis(option, values)


def test_fixed_options_read_alike_in_every_spelling_and_order() -> None:
    one = check_fixed(["--epochs", "5", "--lr=0.50", "--data-dir", "/srv/sets/"], [])
    other = check_fixed(["--data-dir=/home/me/sets", "--learning-rate", "5e-1", "--epochs=05"], [])
    assert one == other == {"data_dir": "sets", "epochs": 5, "learning_rate": 0.5}


BAD_FIXED = {
    "unknown": (["--epoch", "5"], "exec.train: Unknown option: --epoch. Did you mean --epochs"),
    "bare": (["letters"], "letters"),
    "help": (["--help"], "must train, got --help"),
    "axis": (["--batch", "5"], "batch must not be both varied and handed on"),
    "ranks": (["--ranks", "5"], "ranks must not be handed on; give --ranks to the sweep itself"),
    "trace": (["--trace", "x"], "trace must not be handed on"),
}


@pytest.mark.parametrize("name", BAD_FIXED)
def test_bad_fixed_option_is_refused(name: str) -> None:
    tokens, message = BAD_FIXED[name]
    with pytest.raises(UsageError, match=message):
        check_fixed(tokens, [make_axis("batch", ["1"])])


def test_folders_are_cut_off_what_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    tokens = ["--data-dir=/srv/sets/letters", "--test-file", "sub/test.csv", "/", "--epochs"]
    text = f"no /srv/sets/letters/a, {os.getcwd()}/sub/test.csv, {Path.cwd()}/x, /home/me/y or /z"
    assert without_folders(text, tokens) == "no letters/a, test.csv, x, ~/y or /z"
