"""Padded ops: the times of a file, noise that is the same in every run, deadlines that add up."""

import json
import math
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from exec.errors import UsageError
from exec.noise import Distribution, Noise, measured_noise, parse_noise
from exec.program.ops import Accumulate, Compute, Kernel, Shape
from exec.program.peers import Part
from exec.runtime.lane import CommStep
from exec.runtime.pace import Pace, Pacing, read_pace
from exec.runtime.pacer import Pacer, sleep_until

OP = Compute(Kernel.LOSS, 0, 0, Shape(4, 0, 3), 0, 0)
OP_S, SUM_S = 0.004, 0.003
PACE = Pace(multiple=2.0, source="test", times_s={Kernel.LOSS: {"4x0x3": OP_S}, Kernel.ACCUMULATE: {"0x0x8": SUM_S}})  # fmt: skip
WHOLE = {"format": "stepcast-pace-1", "multiple": 2.0, "source": "test", "times_s": {"loss": {"4x0x3": OP_S}}}  # fmt: skip
SPOILT = {
    "format": {"format": "stepcast-pace-2"},
    "multiple": {"multiple": 0},
    "kernel": {"times_s": {"los": {"4x0x3": 1.0}}},
    "negative": {"times_s": {"loss": {"4x0x3": -1.0}}},
    "text": {"times_s": {"loss": {"4x0x3": "1"}}},
    "unknown": {"more": 1},
}


def test_a_pace_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pace.json"
    path.write_text(json.dumps(WHOLE), encoding="utf-8")
    assert read_pace(path).time_s(Kernel.LOSS, Shape(4, 0, 3)) == OP_S
    with pytest.raises(UsageError, match="got none for loss 5x0x3"):
        read_pace(path).time_s(Kernel.LOSS, Shape(5, 0, 3))
    with pytest.raises(UsageError, match="got none for load 4x0x3"):
        read_pace(path).time_s(Kernel.LOAD, Shape(4, 0, 3))


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_damaged_pace_is_refused(tmp_path: Path, spoilt: str) -> None:
    path = tmp_path / "pace.json"
    path.write_text(json.dumps(WHOLE | SPOILT[spoilt]), encoding="utf-8")
    with pytest.raises(UsageError, match=r"pace must be a file of op times, got .*pace\.json: "):
        read_pace(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", None])
def test_what_is_no_pace_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pace.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="pace must be a file of op times"):
        read_pace(path)


@pytest.mark.parametrize("text", ["lognormal", "normal:0.1", "lognormal:0", "exponential:1.5", "lognormal:-1", ":", "lognormal:nan"])  # fmt: skip
def test_bad_noise_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="noise must be lognormal or exponential"):
        parse_noise(text)


NOISES = {
    "lognormal": Noise(Distribution.LOGNORMAL, 0.3),
    "exponential": Noise(Distribution.EXPONENTIAL, 0.3),
    "measured": measured_noise(np.linspace(0.9, 1.1, 20) ** 2, 0.4),
}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_noise_is_the_same_in_every_run_and_differs_between_ranks_and_turns(noise: Noise) -> None:
    drawn = [noise.factor(seed, rank, turn) for seed in range(2) for rank in range(3) for turn in range(4)]  # fmt: skip
    again = [noise.factor(seed, rank, turn) for seed in range(2) for rank in range(3) for turn in range(4)]  # fmt: skip
    assert drawn == again
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_noise_has_mean_one_and_the_spread_that_was_asked_for(noise: Noise) -> None:
    sigma, count = noise.sigma, 4000
    factors = np.array([noise.factor(0, 0, turn) for turn in range(count)])
    spread = sigma
    if noise.distribution is Distribution.LOGNORMAL:
        spread = math.sqrt(math.exp(sigma**2) - 1)
        assert np.std(np.log(factors)) == pytest.approx(sigma, rel=0, abs=4 * sigma / math.sqrt(2 * count))  # fmt: skip
    elif noise.distribution is Distribution.EXPONENTIAL:
        assert factors.min() >= 1 - sigma
        # The variance of an exponential's sample deviation is twice as large as its mean's.
        assert np.std(factors) == pytest.approx(sigma, rel=0, abs=4 * math.sqrt(2 / count) * sigma)
    else:
        assert np.quantile(factors, 0.5) == pytest.approx(np.quantile(noise.quantiles, 0.5 / 0.95), rel=0.02)  # fmt: skip
        above = factors[factors > noise.quantiles[-1]] - noise.quantiles[-1]
        assert above.mean() == pytest.approx(noise.tail, rel=4 / math.sqrt(0.05 * count))
    assert factors.mean() == pytest.approx(1.0, rel=0, abs=4 * spread / math.sqrt(count))


def test_the_draws_of_a_training_are_the_bits_that_they_always_were() -> None:
    drawn = [NOISES[name].factor(7, 2, 5) for name in ("lognormal", "exponential")]
    assert drawn == [0.5560369497071697, 1.0641025588596311]


def turn_of(pacer: Pacer, num_ops: int) -> float:
    """Return how long a turn of so many ops takes that compute nothing."""
    calls = [pacer.compute(OP, lambda: None) for _ in range(num_ops)]
    start_s = perf_counter()
    for call in pacer.paced_calls(calls, [False] * num_ops):
        call()
    return perf_counter() - start_s


def test_a_turn_lasts_no_less_than_its_ops_and_slowness_and_noise_are_on_top() -> None:
    assert turn_of(Pacer(Pacing(PACE), 0, 0), 5) >= 5 * OP_S
    assert turn_of(Pacer(Pacing(PACE), 0, 0, slowness=3.0), 5) >= 15 * OP_S
    noise = Noise(Distribution.LOGNORMAL, 0.3)
    noisy = Pacer(Pacing(PACE, noise), 7, 2, slowness=2.0)
    for turn in range(3):
        assert turn_of(noisy, 2) >= 2 * 2 * OP_S * noise.factor(7, 2, turn) * (1 - 1e-9)
    assert noisy.turns == 3


def test_what_one_op_takes_too_long_the_next_makes_up_for() -> None:
    pacer = Pacer(Pacing(PACE), 0, 0)
    pacer.begin()
    start_s = pacer._deadline_s
    pacer.compute(OP, lambda: sleep_until(perf_counter() + 2.5 * OP_S))()
    for _ in range(3):
        pacer.compute(OP, lambda: None)()
    assert pacer._deadline_s - start_s == pytest.approx(4 * OP_S, rel=0, abs=1e-9)  # clock readings


def test_lateness_is_what_a_wait_or_the_end_finds() -> None:
    pacer = Pacer(Pacing(PACE), 0, 0)
    late = pacer.compute(OP, lambda: sleep_until(perf_counter() + 2 * OP_S))
    for call in pacer.paced_calls([late, lambda: None, late], [False, True, False]):
        call()
    assert pacer.late_s >= 2 * (1 - 1e-2) * OP_S
    assert pacer.turns_s >= 4 * (1 - 1e-2) * OP_S


def test_after_a_wait_deadlines_count_from_its_end() -> None:
    pacer = Pacer(Pacing(PACE), 0, 0)
    waited_s = 2 * OP_S
    calls = [pacer.compute(OP, lambda: None), lambda: sleep_until(perf_counter() + waited_s), pacer.compute(OP, lambda: None)]  # fmt: skip
    start_s = perf_counter()
    for call in pacer.paced_calls(calls, [False, True, False]):
        call()
    assert perf_counter() - start_s >= 2 * OP_S + waited_s


def test_sums_of_received_numbers_last_and_are_done_in_either_form() -> None:
    pacer = Pacer(Pacing(PACE), 0, 0)
    done: list[int] = []
    part = Part("grad", 0, 8)

    def add() -> None:
        done.append(len(done))

    step = pacer.comm(Accumulate(part, part), CommStep("accumulate", lambda: None, add))
    start_s = perf_counter()
    step.run()
    assert perf_counter() - start_s >= SUM_S
    start_s = perf_counter()
    request = step.start()
    assert request is not None
    assert done == [0, 1]  # done, and not over
    while not request.Test():
        pass
    assert perf_counter() - start_s >= SUM_S


def test_messages_are_not_padded() -> None:
    step = CommStep("send", lambda: None, lambda: None)
    assert Pacer(Pacing(PACE), 0, 0).comm(OP, step) is step
