"""Laws of the network: fair rates, links never above their bandwidth, and exact times."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.fair import max_min
from sim.links import Flow
from sim.network import Network, Transfer, completions_s

SETTINGS = settings(derandomize=True, deadline=None, max_examples=150)
SAME = 1e-9
Flows = list[tuple[float, Transfer]]
CAPACITIES = {"a": 1.0, "b": 3.0, "c": 0.5, "d": 2.0}


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[int]], list[float], list[float]]:
    """Draw routes, capacities and limits."""
    capacities = draw(st.lists(st.sampled_from([0.5, 1.0, 1.0, 3.0, 7.0]), min_size=1, max_size=6))
    link = st.integers(0, len(capacities) - 1)
    routes = [sorted(route) for route in draw(st.lists(st.sets(link, min_size=1), max_size=9))]
    limits = [draw(st.sampled_from([math.inf, math.inf, 0.2, 0.9])) for _ in routes]
    return routes, capacities, limits


@SETTINGS
@given(problems())
def test_a_fair_rate_could_rise_only_at_the_cost_of_one_that_is_no_higher(
    problem: tuple[list[list[int]], list[float], list[float]],
) -> None:
    # The definition of Bertsekas and Gallager, by their proposition: every flow is at its own limit or
    # has a bottleneck, a full link on which no other flow has more.
    routes, capacities, limits = problem
    rates = max_min(routes, capacities, limits)
    carried = [sum(r for r, route in zip(rates, routes, strict=True) if i in route) for i in range(len(capacities))]  # fmt: skip
    assert all(load <= capacity * (1 + SAME) for load, capacity in zip(carried, capacities, strict=True))  # fmt: skip
    for rate, route, limit in zip(rates, routes, limits, strict=True):
        has_bottleneck = any(
            carried[link] >= capacities[link] * (1 - SAME)
            and rate >= max(r for r, other in zip(rates, routes, strict=True) if link in other) * (1 - SAME)
            for link in route
        )  # fmt: skip
        assert rate == limit or has_bottleneck


@st.composite
def transfers(draw: st.DrawFn, links: str = "abcd") -> Flows:
    """Draw transfers over the links of :data:`CAPACITIES`, some of them at the same time."""
    found = []
    for _ in range(draw(st.integers(1, 12))):
        route = tuple(sorted(draw(st.sets(st.sampled_from(links), min_size=1))))
        nbytes = draw(st.sampled_from([0.0, 1.0, 1.0, 2.5, 10.0]))
        limit = draw(st.sampled_from([math.inf, math.inf, 0.4]))
        channel = draw(st.sampled_from([None, None, 1, 2]))
        start_s, latency_s = draw(st.sampled_from([0.0, 0.0, 1.0, 3.3])), draw(st.sampled_from([0.0, 0.5]))  # fmt: skip
        found.append((start_s, Transfer(route, nbytes, latency_s, limit, channel)))
    return sorted(found, key=lambda each: each[0])


def alone_s(transfer: Transfer) -> float:
    """Return what a transfer takes if there is no other."""
    rate = min(transfer.bytes_per_s, *(CAPACITIES[link] for link in transfer.route))
    return transfer.latency_s + transfer.nbytes / rate


@SETTINGS
@given(transfers())
def test_links_carry_all_bytes_and_never_more_than_their_bandwidth(flows: Flows) -> None:
    network = Network(CAPACITIES.__getitem__, keeps_loads=True)
    for start_s, transfer in flows:
        network.send(start_s, transfer)
    num_ended = 0
    while (at_s := network.next_s) < math.inf:
        num_ended += len(network.advance(at_s))
    assert num_ended == len(flows)
    assert network.loads is not None
    for name, capacity in CAPACITIES.items():
        loads = [load for load in network.loads if load.link == name]
        assert all(load.bytes_per_s <= capacity * (1 + SAME) for load in loads)
        spans = itertools.pairwise(loads)
        carried = sum(one.bytes_per_s * (two.time_s - one.time_s) for one, two in spans)
        sent = sum(transfer.nbytes for _, transfer in flows if name in transfer.route)
        assert carried == pytest.approx(sent, rel=SAME, abs=SAME)


@settings(SETTINGS, max_examples=60)
@given(transfers(), st.booleans())
def test_an_end_that_is_foreseen_is_the_same_to_the_bit(flows: Flows, is_sent_late: bool) -> None:
    # A network that keeps its loads foresees nothing. Transfers are sent at once, or when they begin.
    ends_s: list[list[float]] = []
    for keeps_loads in (False, True):
        network = Network(CAPACITIES.__getitem__, keeps_loads=keeps_loads)
        found: dict[Flow, float] = {}
        sent = []
        for start_s, transfer in flows:
            while is_sent_late and (at_s := network.next_s) <= start_s:
                found |= dict.fromkeys(network.advance(at_s), at_s)
            sent.append(network.send(start_s, transfer))
        while (at_s := network.next_s) < math.inf:
            found |= dict.fromkeys(network.advance(at_s), at_s)
        ends_s.append([found[flow] for flow in sent])
    assert ends_s[0] == ends_s[1]
    assert len(ends_s[0]) == len(flows)


@SETTINGS
@given(transfers())
def test_a_transfer_takes_at_least_as_long_as_alone_and_together_at_most_one_after_another(
    flows: Flows,
) -> None:
    ends_s = completions_s(flows, CAPACITIES.__getitem__)
    for end_s, (start_s, transfer) in zip(ends_s, flows, strict=True):
        assert end_s >= (start_s + alone_s(transfer)) * (1 - SAME)
    last_s = max(start_s for start_s, _ in flows)
    assert max(ends_s) <= (last_s + sum(alone_s(each) for _, each in flows)) * (1 + SAME)


@SETTINGS
@given(transfers(), st.sampled_from([1e-3, 7.0, 1e6]))
def test_scaling_all_times_scales_all_ends(flows: Flows, factor: float) -> None:
    scaled = [
        (start_s * factor, Transfer(t.route, t.nbytes, t.latency_s * factor, t.bytes_per_s / factor, t.channel))
        for start_s, t in flows
    ]  # fmt: skip
    ends_s = completions_s(scaled, lambda link: CAPACITIES[link] / factor)
    expected_s = [factor * each for each in completions_s(flows, CAPACITIES.__getitem__)]
    assert ends_s == pytest.approx(expected_s, rel=SAME)


@SETTINGS
@given(transfers("b"), transfers("b"))
def test_on_one_link_more_flows_never_help_the_others(flows: Flows, more: Flows) -> None:
    flows, more = ([(s, Transfer(t.route, t.nbytes, t.latency_s)) for s, t in each] for each in (flows, more))  # fmt: skip
    alone = completions_s(flows, CAPACITIES.__getitem__)
    together = completions_s([*flows, *more], CAPACITIES.__getitem__)[: len(flows)]
    assert all(two >= one * (1 - SAME) for one, two in zip(alone, together, strict=True))


def test_on_two_links_one_more_flow_may_help_another() -> None:
    # Flow 1 has both links, flow 2 the second. A third one on the first link takes from flow 1, which
    # then leaves more of the second link to flow 2.
    def rates(*routes: list[int]) -> list[float]:
        return max_min(routes, [1.0, 1.0], [math.inf] * len(routes))

    assert rates([0, 1], [1]) == [0.5, 0.5]
    assert rates([0, 1], [1], [0], [0]) == pytest.approx([1 / 3, 2 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_equal_flows_on_a_link_end_together_after_so_many_times_one(count: int) -> None:
    ends_s = completions_s([(0.0, Transfer(("a",), 2.0, 0.5))] * count, CAPACITIES.__getitem__)
    assert ends_s == pytest.approx([0.5 + 2.0 * count] * count, rel=1e-15)


def test_a_channel_carries_one_after_another_and_channels_share() -> None:
    one, two = (Transfer(("a",), 1.0, 0.0, math.inf, channel) for channel in "xy")
    ends_s = completions_s([(0.0, one), (0.0, one), (0.0, two)], CAPACITIES.__getitem__)
    assert ends_s == pytest.approx([2.0, 3.0, 2.0], rel=1e-15)


def test_a_flow_that_is_limited_leaves_the_rest_to_the_others() -> None:
    flows = [(0.0, Transfer(("a",), 1.0, 0.0, 0.25)), (0.0, Transfer(("a",), 3.0))]
    assert completions_s(flows, CAPACITIES.__getitem__) == pytest.approx([4.0, 4.0], rel=1e-15)


def test_links_without_limit_take_no_time() -> None:
    flows = [(1.0, Transfer(("x", "y"), 5.0, 0.5)), (1.0, Transfer((), 5.0, 0.5))]
    assert completions_s(flows, lambda _: math.inf) == [1.5, 1.5]


def ends_s(flows: Flows, bursts: dict[str, float]) -> list[float]:
    """Return when each of ``flows`` ends, on links of :data:`CAPACITIES` with such token buckets."""
    return timed(Network(CAPACITIES.__getitem__, lambda link: bursts.get(link, 0.0)), flows)


def timed(network: Network, flows: Flows) -> list[float]:
    """Return when each of ``flows`` ends, each sent when it begins."""
    found: dict[Flow, float] = {}
    sent = []
    for start_s, transfer in flows:
        while (at_s := network.next_s) < start_s:
            found |= dict.fromkeys(network.advance(at_s), at_s)
        sent.append(network.send(start_s, transfer))
    while (at_s := network.next_s) < math.inf:
        found |= dict.fromkeys(network.advance(at_s), at_s)
    return [found[flow] for flow in sent]


def test_a_burst_passes_at_once_and_is_saved_up_again_in_a_rest() -> None:
    # Link c carries 0.5 bytes/s, and 2 bytes at once; a has neither rest nor bucket enough of its own.
    flow = Transfer(("c",), 3.0)
    found = ends_s([(0.0, flow), (2.0, flow), (10.0, flow), (50.0, flow)], {"c": 2.0})
    assert found == pytest.approx([2.0, 8.0, 14.0, 52.0])  # with 2, 0, 1 and 2 bytes saved up
    both = Transfer(("a", "c"), 3.0)
    assert ends_s([(0.0, both)], {"a": 0.5, "c": 2.0}) == pytest.approx([5.0])  # 0.5 passes both
    assert ends_s([(0.0, both)], {"c": 2.0}) == pytest.approx([6.0])


@SETTINGS
@given(transfers(), st.dictionaries(st.sampled_from("abcd"), st.floats(0.1, 4.0)))
def test_no_link_ever_carries_more_than_its_rate_and_its_burst(
    flows: Flows, bursts: dict[str, float]
) -> None:
    found = ends_s(flows, bursts)
    for link, capacity in CAPACITIES.items():
        own = [
            (start_s + each.latency_s, end_s, each.nbytes)
            for (start_s, each), end_s in zip(flows, found, strict=True)
            if link in each.route
        ]
        for from_s, _, _ in own:
            for _, to_s, _ in own:
                inside = sum(
                    size for start_s, end_s, size in own if start_s >= from_s and end_s <= to_s
                )
                most = capacity * max(0.0, to_s - from_s) + bursts.get(link, 0.0)
                assert inside <= most * (1 + SAME) + SAME or to_s < from_s


@SETTINGS
@given(transfers())
def test_buckets_that_hold_nothing_change_nothing(flows: Flows) -> None:
    assert ends_s(flows, {}) == pytest.approx(
        completions_s(flows, CAPACITIES.__getitem__), rel=SAME
    )


@st.composite
def flows_to_a_hub(draw: st.DrawFn) -> Flows:
    """Draw transfers to the link ``hub``, most from ports of their own, and some that go elsewhere."""
    found = []
    for place in range(draw(st.integers(8, 24))):
        port = f"port{draw(st.sampled_from([place, place, place, place, 0]))}"
        end = draw(st.sampled_from(["hub"] * 12 + ["elsewhere"]))
        nbytes = draw(st.sampled_from([0.0, 1.0, 1.0, 2.5, 10.0]))
        limit = draw(st.sampled_from([math.inf, math.inf, math.inf, 0.15]))
        start_s = draw(st.sampled_from([0.0, 0.0, 1.0]) | st.floats(0.0, 30.0))
        channel = draw(st.sampled_from([None, None, None, port]))
        found.append((start_s, Transfer((port, end), nbytes, 0.5, limit, channel)))
    return sorted(found, key=lambda each: each[0])


@pytest.mark.parametrize("hub_bytes_per_s", [1.0, 3.0])
@settings(SETTINGS, max_examples=60)
@given(flows_to_a_hub())
def test_at_a_hub_flows_end_when_rates_found_anew_say(hub_bytes_per_s: float, flows: Flows) -> None:
    # A network that keeps its loads knows no hubs.
    plain, loaded = (
        timed(Network(lambda link: hub_bytes_per_s if link == "hub" else 1.0, keeps_loads=keeps_loads), flows)
        for keeps_loads in (False, True)
    )  # fmt: skip
    assert plain == pytest.approx(loaded, rel=1e-12)


def test_a_flow_that_was_foreseen_keeps_its_start_whoever_is_looked_at_first() -> None:
    # Two flows are alone until others come, first to the one that started last. Nobody looked before.
    first, second = Transfer(("b",), 30.0), Transfer(("d",), 20.0, 1.0)
    network = Network(CAPACITIES.__getitem__)
    flows = [Flow() for _ in range(4)]
    for flow, each in zip(flows, (first, second), strict=False):
        assert network.send_along(0.0, network.path(each), flow)
    for flow, each in zip(flows[2:], (second, first), strict=True):
        assert not network.send_along(2.0, network.path(each), flow)
    found: dict[Flow, float] = dict.fromkeys(network.advance(2.0), 2.0)
    while (at_s := network.next_s) < math.inf:
        found |= dict.fromkeys(network.advance(at_s), at_s)
    # From 2 s on 24 and 30 bytes share b, from 3 s on 16 and 20 share d.
    assert [found[flow] for flow in flows] == pytest.approx([18.0, 19.0, 21.0, 20.0], rel=1e-15)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [0.05, 0.3, math.inf])
def test_a_busy_hub_that_others_cross_ends_its_flows_in_time(seed: int, limit: float) -> None:
    # Flows of unlike sizes come and go all the time; some share a port, or are slow for themselves.
    pick = random.Random(seed)
    flows = []
    for place in range(60):
        port = f"port{place if pick.random() < 0.9 else 0}"
        own = limit if pick.random() < 0.2 else math.inf
        route = (port, "hub" if pick.random() < 0.9 else "elsewhere")
        flows.append((pick.uniform(0.0, 40.0), Transfer(route, pick.uniform(1.0, 9.0), 0.5, own)))
    flows.sort(key=lambda each: each[0])
    plain, loaded = (timed(Network(lambda _: 1.0, keeps_loads=keeps_loads), flows) for keeps_loads in (False, True))  # fmt: skip
    assert plain == pytest.approx(loaded, rel=1e-12)


@pytest.mark.parametrize("late", [Transfer(("port99", "hub"), 3.0, 0.0, 0.02), Transfer(("port0", "hub"), 3.0)])  # fmt: skip
def test_who_comes_to_a_hub_and_is_held_up_elsewhere_takes_no_equal_share(late: Transfer) -> None:
    flows = [(0.0, Transfer((f"port{i}", "hub"), 10.0 + i)) for i in range(10)] + [(5.0, late)]
    plain, loaded = (
        timed(Network(lambda link: 1.0 if link == "hub" else 0.11, keeps_loads=keeps_loads), flows)
        for keeps_loads in (False, True)
    )
    assert plain == pytest.approx(loaded, rel=1e-12)
