"""Steps of many points that do the same in the same order: their times in arrays, a column for each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from sim.costs import Costs
from sim.grid_family import Turn
from sim.grid_links import Array, Site, Times
from sim.grid_prices import Priced
from sim.grid_walk import StageTimes, computed_s, walk


class Readings(StrEnum):
    """Which readings of the lanes :func:`sim.forecast.step_times` takes."""

    LANES = "lanes"
    TURNS = "turns"
    BOTH = "both"

    @staticmethod
    def of(overlap_share: float) -> "Readings":
        """Return those of a rank that could send while it computes."""
        return {1.0: Readings.LANES, 0.0: Readings.TURNS}.get(overlap_share, Readings.BOTH)


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A point to walk: its ``site``, its Machine's ``row`` there, and what its ranks compute.

    ``alone`` are the costs of one rank alone.
    """

    site: Site
    row: int
    price: Priced
    alone: Costs
    overlap_share: float


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Arrays by turn, share of the batch, tp class and point, for each stage.

    ``computed`` is that of ranks alone on their nodes; ``added`` what collectives take beside their
    messages; ``sends`` have latency and transfer before the point.
    """

    computed: tuple[Array, ...]
    collectives: tuple[Array, ...]
    added: tuple[Array, ...]
    sends: tuple[Array, ...]
    slowdown: Array

    def times(self) -> list[StageTimes]:
        """Return what each turn takes."""
        return [
            StageTimes(list(computed * self.slowdown), list(collectives + added), list(sends[..., 0, :]), list(sends[..., 1, :]))
            for computed, collectives, added, sends in zip(self.computed, self.collectives, self.added, self.sends, strict=True)
        ]  # fmt: skip

    def with_times(self, places: dict[int, tuple[Array, Array, Times]]) -> "Columns":
        """Return the columns with other times of links at ``places``: points, their rows, and the times."""
        collectives = [each.copy() for each in self.collectives]
        sends = [each.copy() for each in self.sends]
        for points, rows, times in places.values():
            for stage in range(len(collectives)):
                collectives[stage][..., points] = times.collectives[stage][..., rows]
                sends[stage][..., points] = times.sends[stage][..., rows]
        return replace(self, collectives=tuple(collectives), sends=tuple(sends))


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """The steps of ``members``: ``compute_s`` is that of the rank that computes most.

    ``at`` are the places of the members of each site, by its id.
    """

    members: Sequence[Member]
    columns: Columns
    turns: tuple[tuple[Turn, ...], ...]
    readings: Readings
    at: dict[int, Array]
    is_within: Array
    step_s: Array
    compute_s: Array
    bubble_s: Array

    @property
    def exposed_s(self) -> Array:
        """What messages add that no rank computes beside."""
        exposed_s: Array = np.maximum(0.0, self.step_s - self.compute_s - self.bubble_s)
        return exposed_s

    @staticmethod
    def of(members: Sequence[Member], readings: Readings) -> "Steps":
        """Walk ``members``."""
        parts = members[0].price.share.replicas[0].parts
        turns = tuple(stage[0].turns for stage in parts)
        at: dict[int, list[int]] = {}
        for place, member in enumerate(members):
            at.setdefault(id(member.site), []).append(place)
        places = {site: np.array(each) for site, each in at.items()}
        columns, is_within = _columns(members, places)
        times = columns.times()
        compute_s = computed_s(times)
        bubble_s = np.zeros_like(compute_s)
        if len(parts) > 1:
            free = [_free(each) for each in times]
            bubble_s = np.maximum(0.0, walk(turns, free, one_lane=False) - compute_s)
        step_s = _walked(members, turns, times, readings)
        return Steps(members, columns, turns, readings, places, is_within, step_s, compute_s, bubble_s)  # fmt: skip

    def under(self, columns: Columns) -> tuple[Array, Array]:
        """Return the time of a step, and what the rank computes that computes most, with other columns."""
        times = columns.times()
        return _walked(self.members, self.turns, times, self.readings), computed_s(times)


def computed_columns(prices: Sequence[Priced]) -> tuple[Array, ...]:
    """Return the columns of what each of ``prices`` computes; equal ones are few."""
    index: dict[int, int] = {}
    of = np.array([index.setdefault(id(each), len(index)) for each in prices])
    alike = list({id(each): each for each in prices}.values())
    return tuple(
        np.ascontiguousarray(np.moveaxis(np.array([each.computed[stage] for each in alike])[of], (3, 1, 2, 0), (0, 1, 2, 3)))
        for stage in range(len(alike[0].computed))
    )  # fmt: skip


def _columns(members: Sequence[Member], at: dict[int, Array]) -> tuple[Columns, Array]:
    """Return the columns of ``members``, and which of them are within what was measured."""
    computed = computed_columns([member.price for member in members])
    is_within = np.array([member.price.is_within for member in members])
    rows = np.array([member.row for member in members])
    first = members[0].site.times
    width = len(members)
    collectives = tuple(np.zeros((*each.shape[:-1], width)) for each in first.collectives)
    sends = tuple(np.zeros((*each.shape[:-1], width)) for each in first.sends)
    added = tuple(np.zeros_like(each) for each in collectives)
    for places in at.values():
        site = members[places[0]].site
        alone: dict[int, list[int]] = {}
        for place in places:
            alone.setdefault(id(members[place].alone), []).append(place)
        for own in alone.values():
            shares = {id(members[place].price.share): members[place].price.share for place in own}
            index = {share: i for i, share in enumerate(shares)}
            found, within = site.added_s(members[own[0]].alone, list(shares.values()))
            of = [index[id(members[place].price.share)] for place in own]
            is_within[own] &= within
            for stage, each in enumerate(found):
                added[stage][..., own] = each[..., of]
    columns = Columns(computed, collectives, added, sends, np.array([each.site.costs.slowdown for each in members]))  # fmt: skip
    times = {site: (places, rows[places], members[places[0]].site.times) for site, places in at.items()}  # fmt: skip
    return columns.with_times(times), is_within


def _walked(members: Sequence[Member], turns: Sequence[Sequence[Turn]], times: Sequence[StageTimes], readings: Readings) -> Array:  # fmt: skip
    match readings:
        case Readings.LANES:
            return walk(turns, times, one_lane=False)
        case Readings.TURNS:
            return walk(turns, times, one_lane=True)
        case Readings.BOTH:
            share = np.array([member.overlap_share for member in members])
            lanes_s, turns_s = (walk(turns, times, one_lane=one) for one in (False, True))
            return share * lanes_s + (1.0 - share) * turns_s


def _free(times: StageTimes) -> StageTimes:
    """Return ``times`` without those of messages."""
    none = [np.zeros_like(each) for each in times.transfers]
    return StageTimes(times.computed, [np.zeros_like(each) for each in times.collectives], none, none)  # fmt: skip
