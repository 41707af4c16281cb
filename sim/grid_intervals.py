"""Intervals of many points at once: what :mod:`sim.intervals` does, a column for each point."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sim.grid_links import Array, Site
from sim.grid_prices import Priced, priced
from sim.grid_steps import Member, Steps, computed_columns
from sim.intervals import INTERVAL_Z, NOISE_SIGMA, Parameter, Uncertain, uncertain_of


def interval_shares(steps: Steps, waits_s: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the shares of each step's time by which it may be less, and more.

    Raises and assumes what :func:`sim.intervals.delta_s` does.
    """
    wait_s = np.array(waits_s)
    rest_s = wait_s + np.array([member.alone.step_overhead_s for member in steps.members])
    kernels = _kernels(steps)
    links = _links(steps)
    own_share = np.array([each.own_share for each in kernels])
    squares = []
    for z in (-INTERVAL_Z, INTERVAL_Z):
        step_s, compute_s = steps.under(
            replace(steps.columns, computed=_computed(steps, kernels, z))
        )
        off_s = step_s - steps.step_s + wait_s * (compute_s / steps.compute_s - 1.0)
        square = (off_s * np.hypot(1.0, own_share)) ** 2 + (wait_s * np.expm1(z * NOISE_SIGMA)) ** 2
        for name in dict.fromkeys(name for found in links.values() for name in found):
            square += (_linked_s(steps, links, name, z) - steps.step_s) ** 2
        squares.append(square)
    less, more = (np.sqrt(square) / (steps.step_s + rest_s) for square in squares)
    low: list[float] = np.maximum(1.0 - less, np.exp(-2.0 * less)).tolist()
    high: list[float] = (1.0 + more).tolist()
    return low, high


def _uncertain(member: Member) -> Uncertain:
    """Return what is uncertain of a member, as its forecast says."""
    site, share = member.site, member.price.share
    costs = replace(site.costs, machine=site.costs.machine.model_copy(update={"compute": member.alone.machine.compute}), extrapolated=set())  # fmt: skip
    return uncertain_of(costs, [site.plan.program(share)])


def _kernels(steps: Steps) -> list[Uncertain]:
    """Return what is uncertain of each member's kernels: that of its share and its processor."""
    found: dict[int, Uncertain] = {}
    for member in steps.members:
        if id(member.price) not in found:
            found[id(member.price)] = _uncertain(member)
    return [found[id(member.price)] for member in steps.members]


def _links(steps: Steps) -> dict[int, dict[str, Parameter]]:
    """Return what is uncertain of each site's links, by name."""
    return {
        site: {each.name: each for each in _uncertain(steps.members[places[0]]).others}
        for site, places in steps.at.items()
    }


def _computed(steps: Steps, kernels: Sequence[Uncertain], z: float) -> tuple[Array, ...]:
    """Return the columns of what is computed with all kernels so many standard deviations off."""
    found: dict[int, Priced] = {}
    for member, uncertain in zip(steps.members, kernels, strict=True):
        key = id(member.price)
        if key not in found:
            factors = uncertain.shared.change(member.alone, z).kernel_factors
            found[key] = priced(member.alone, member.price.share, factors)
    return computed_columns([found[id(member.price)] for member in steps.members])


def _linked_s(steps: Steps, links: dict[int, dict[str, Parameter]], name: str, z: float) -> Array:
    """Return the time of each step with one number of its links so many standard deviations off."""
    changed = {}
    for key, places in steps.at.items():
        parameter = links[key].get(name)
        if parameter is None:
            continue
        site: Site = steps.members[places[0]].site
        times = site.under(parameter.change, z)
        changed[key] = places, np.array([steps.members[place].row for place in places]), times
    return steps.under(steps.columns.with_times(changed))[0]
