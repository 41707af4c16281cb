from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.find import find_machine
from calibration.machine import Curve, Machine, Tier
from exec.errors import UsageError
from exec.network.parse import parse_net
from exec.plan.layout import check_mesh
from exec.plan.nodes import check_nodes
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.strategy import Strategy
from exec.plan.window import check_window, window_size
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.forecast import forecast
from sim.grid import Answer, Point, answers
from tests.agreement.hand_made import machines

_MACHINE = find_machine("ethernet-cluster")
_MACHINES = [_MACHINE.model_copy(update={"overlap_share": share}) for share in (0.0, 0.4, 1.0)]
_NETS = [parse_net(each) for each in ("12-7-5", "128-100-50-26", "cnn:1x12x12:10")]


@st.composite
def points(draw: st.DrawFn) -> Point:
    ranks_per_node = draw(st.sampled_from([1, 2, 4]))
    options = PlanOptions(
        draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from(Schedule)),
        draw(st.sampled_from([1024, 1 << 20])), draw(st.booleans()), draw(st.sampled_from(Algorithm)),
        draw(st.sampled_from([Strategy.HYBRID, Strategy.HYBRID, Strategy.AVERAGING])),
        ranks_per_node=ranks_per_node, sync_batchnorm=draw(st.booleans()),
    )  # fmt: skip
    workload = Workload(
        draw(st.sampled_from(_NETS)), draw(st.integers(16, 700)), draw(st.sampled_from([4, 8])), draw(st.booleans())
    )  # fmt: skip
    mesh = Mesh(draw(st.integers(1, 17)), draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 1, 2, 3])))  # fmt: skip
    return Point(
        draw(st.sampled_from(_MACHINES) | machines()), workload, mesh, options, ranks_per_node
    )


def _fits(point: Point) -> bool:
    try:
        check_mesh(point.workload, point.mesh, point.options)
        check_window(point.mesh, point.options, point.ranks_per_node)
        if point.options.algorithm is Algorithm.HIERARCHICAL:
            check_nodes(point.mesh, point.ranks_per_node)
    except UsageError:
        return False
    return True


def _alone(point: Point) -> Answer:
    told = forecast(point.machine, point.workload, point.mesh, point.options, ranks_per_node=point.ranks_per_node)  # fmt: skip
    return Answer(told.nodes, told.breakdown, told.memory_bytes, bool(told.extrapolated), told.interval_s)  # fmt: skip


def _together(points: list[Point]) -> dict[int, Answer]:
    return answers(points, has_interval=True)


def _assert_same(found: Answer, expected: Answer) -> None:
    total_s = expected.breakdown.total_s
    assert found.breakdown.total_s == pytest.approx(total_s, rel=1e-12)
    assert astuple(found.breakdown) == pytest.approx(astuple(expected.breakdown), rel=1e-12, abs=1e-12 * total_s)  # fmt: skip
    assert (found.nodes, found.memory_bytes) == (expected.nodes, expected.memory_bytes)
    assert found.is_extrapolated == expected.is_extrapolated
    assert found.interval_s == pytest.approx(expected.interval_s, rel=1e-11)


@settings(deadline=None, max_examples=30)
@given(st.lists(points().filter(_fits), min_size=1, max_size=8))
def test_points_answered_together_are_the_forecasts_of_each(drawn: list[Point]) -> None:
    found = _together(drawn)
    for place, point in enumerate(drawn):
        if place in found:
            _assert_same(found[place], _alone(point))
        else:
            is_named = point.options.algorithm is Algorithm.SHARED_WINDOW
            is_window = is_named or window_size(point.mesh, point.options) > 1
            assert is_window or point.options.strategy is Strategy.AVERAGING or point.mesh.pp > 1


def _data(machine: Machine, dp: int, batch: int, algorithm: Algorithm) -> Point:
    return Point(machine, Workload(_NETS[1], batch), Mesh(dp), PlanOptions(algorithm=algorithm))


def test_a_family_is_walked_together_whatever_its_links_batches_and_replicas() -> None:
    link = next(iter(_MACHINE.links))
    lanes = _MACHINE.links[link].model_copy(update={"lanes": 4})
    other = _MACHINE.model_copy(update={"links": {**_MACHINE.links, link: lanes}})
    drawn = [
        _data(machine, dp, batch, algorithm)
        for machine in (_MACHINE, other)
        for dp in (1, 2, 3, 64, 1000)
        for batch in (1000, 1001, 4096)
        for algorithm in (Algorithm.LIBRARY, Algorithm.RING)
    ]
    found = _together(drawn)
    assert len(found) == len(drawn)
    for place, point in enumerate(drawn):
        _assert_same(found[place], _alone(point))


def test_pipelines_of_unlike_stages_are_walked_together() -> None:
    options = PlanOptions(num_microbatches=4)
    drawn = [Point(_MACHINE, Workload(_NETS[2], batch), Mesh(dp, 3), options, 2) for batch in (64, 90) for dp in (1, 2, 5)]  # fmt: skip
    found = _together(drawn)
    assert len(found) == len(drawn)
    for place, point in enumerate(drawn):
        _assert_same(found[place], _alone(point))


def test_pipelines_of_unequal_shares_send_from_where_each_kind_begins() -> None:
    """On three ranks a node the second replica's stages are on two nodes, and the third's on one."""
    drawn = [Point(_MACHINE, Workload(_NETS[1], batch), Mesh(3, 2), PlanOptions(), 3) for batch in (63, 64, 65)]  # fmt: skip
    found = _together(drawn)
    assert len(found) == len(drawn)
    for place, point in enumerate(drawn):
        _assert_same(found[place], _alone(point))


def test_messages_that_wait_for_their_receives_are_left_to_the_forecast() -> None:
    links = {tier: link.model_copy(update={"eager_limit_nbytes": 1.0}) for tier, link in _MACHINE.links.items()}  # fmt: skip
    held = _MACHINE.model_copy(update={"links": links})
    pipeline = Point(held, Workload(_NETS[1], 64), Mesh(1, 2), PlanOptions())
    assert answers([pipeline, _data(held, 4, 64, Algorithm.LIBRARY)]).keys() == {1}


def test_slow_nodes_are_left_to_the_forecast() -> None:
    slow = _MACHINE.model_copy(update={"node_slowness": {0: 3.0}})
    drawn = [_data(on, 4, 64, Algorithm.LIBRARY) for on in (slow, _MACHINE)]
    assert answers(drawn).keys() == {1}


def test_ranks_of_unlike_shares_wait_as_they_do_one_at_a_time() -> None:
    compute = _MACHINE.compute
    assert compute is not None
    noisy = _MACHINE.model_copy(
        update={"compute": compute.model_copy(update={"noise_rel_sigma": 0.3})}
    )
    drawn = [Point(noisy, Workload(_NETS[1], batch), Mesh(dp, pp, tp), PlanOptions(num_microbatches=pp), 2)
             for batch in (64, 67) for dp, pp, tp in ((1, 1, 1), (5, 1, 1), (3, 2, 1), (2, 1, 3))]  # fmt: skip
    found = _together(drawn)
    assert len(found) == len(drawn)
    for place, point in enumerate(drawn):
        _assert_same(found[place], _alone(point))
        assert found[place].breakdown.wait_s > 0.0 or point.mesh.world_size == 1


def test_unequal_replicas_are_marked_as_they_are_one_at_a_time() -> None:
    ring = PlanOptions(algorithm=Algorithm.RING)
    drawn = [Point(_MACHINE, Workload(_NETS[1], batch), Mesh(4), ring, 1) for batch in (65, 64, 66)]
    found = _together(drawn)
    for place, point in enumerate(drawn):
        _assert_same(found[place], _alone(point))
    assert [found[place].is_extrapolated for place in range(3)] == [True, False, True]


def test_machines_of_one_form_are_told_apart() -> None:
    """Of links, processors, knees and ranges, each is one Machine's alone."""
    drawn = [_data(machine, 8, 512, algorithm) for machine in _alike_machines() for algorithm in (Algorithm.RING, Algorithm.LIBRARY)]  # fmt: skip
    found = _together(drawn)
    assert len(found) == len(drawn)
    for place, point in enumerate(drawn):
        _assert_same(found[place], _alone(point))
    assert len({each.breakdown.total_s for each in found.values()}) >= len(drawn) // 2


def _alike_machines() -> list[Machine]:
    link = _MACHINE.links[Tier.NETWORK]
    compute = _MACHINE.compute
    assert compute is not None

    def with_link(**changed: object) -> Machine:
        links = {**_MACHINE.links, Tier.NETWORK: link.model_copy(update=changed)}
        return _MACHINE.model_copy(update={"links": links})

    def curve(alpha: float, beta: float, **changed: object) -> Curve:
        segments = tuple(
            each.model_copy(update={"alpha_s": each.alpha_s * alpha, "beta_s_per_byte": each.beta_s_per_byte * beta})
            for each in link.message.segments
        )  # fmt: skip
        return link.message.model_copy(update={"segments": segments, **changed})

    first = link.message.segments[0].model_copy(update={"up_to_nbytes": 2000.0, "alpha_s": 1e-3})
    knee = link.message.model_copy(update={"segments": (first, link.message.segments[-1])})
    slow = {name: model.model_copy(update={"coefficients_s": {each: 2.0 * value for each, value in model.coefficients_s.items()}})
            for name, model in compute.kernels.items()}  # fmt: skip
    return [
        _MACHINE,
        with_link(message=curve(3.0, 1.0)),
        with_link(message=curve(1.0, 0.1)),
        with_link(message=curve(1.0, 1.0, rel_sigma=0.7)),
        with_link(message=knee),
        with_link(lanes=4),
        with_link(allreduce_ranks=link.allreduce_ranks.model_copy(update={"high": 1e9})),
        _MACHINE.model_copy(update={"compute": compute.model_copy(update={"kernels": slow})}),
        _MACHINE.model_copy(update={"compute": compute.model_copy(update={"step_overhead_s": 1.0})}),
        _MACHINE.model_copy(update={"compute": compute.model_copy(update={"noise_rel_sigma": 0.3})}),
    ]  # fmt: skip


def test_what_a_machine_lacks_is_left_for_the_forecast_to_say() -> None:
    lonely = _MACHINE.model_copy(update={"links": {}})
    assert _together([_data(on, 4, 64, Algorithm.LIBRARY) for on in (lonely, _MACHINE)]).keys() == {1}  # fmt: skip
