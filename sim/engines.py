"""The engines, and the choice between the two that simulate: arrays where they are exact, else events."""

from dataclasses import replace

import numpy as np

from exec.errors import UsageError
from exec.noise import Array
from exec.plan.collectives import expand
from exec.program.program import Program
from sim.arrays.irregular import IrregularError
from sim.arrays.simulate import ArrayTimes, simulate_arrays
from sim.costs import Costs
from sim.engine import MAX_EVENT_RANKS, Engine
from sim.lumps.simulate import simulate_lumps
from sim.result import StepTimes
from sim.simulate import simulate

_ASKED_FOR = "asked for"


def simulated(program: Program, costs: Costs, engine: Engine, *, one_lane: bool) -> StepTimes:
    """Return the times of ``program``, its collectives not expanded, by ``engine`` or its choice.

    Raises:
        UsageError: arrays are asked for and cannot tell, or events would be of too many ranks.
    """
    expanded = expand(program)
    told = _by_arrays(expanded, costs, engine, None, one_lane=one_lane)
    if isinstance(told, ArrayTimes):
        return replace(told.first, simulated=(f"arrays over {program.mesh.world_size} ranks",))
    if engine is Engine.SIMULATE:
        return _by_lumps(expanded, costs, told, one_lane=one_lane)
    check_events(program, engine, told)
    return by_events(simulate(expanded, costs, one_lane=one_lane), told)


def simulated_each(
    program: Program, costs: Costs, engine: Engine, paces: Array, *, one_lane: bool
) -> Array:
    """Return what the step takes in each replica of ``paces``, (replicas, ranks, turns).

    Raises:
        UsageError: as :func:`simulated`.
    """
    expanded = expand(program)
    told = _by_arrays(expanded, costs, engine, paces, one_lane=one_lane)
    if isinstance(told, ArrayTimes):
        return told.step_times_s
    check_events(program, engine, told)
    return np.array([
        simulate(expanded, costs, one_lane=one_lane, paces=each).step_time_s for each in paces
    ])  # fmt: skip


def _by_arrays(
    program: Program, costs: Costs, engine: Engine, paces: Array | None, *, one_lane: bool
) -> ArrayTimes | str:
    """Return what arrays tell, or why they do not."""
    if engine is Engine.EVENTS:
        return _ASKED_FOR
    try:
        return simulate_arrays(program, costs, one_lane=one_lane, paces=paces)
    except IrregularError as error:
        return str(error)


def _by_lumps(program: Program, costs: Costs, reason: str, *, one_lane: bool) -> StepTimes:
    """Return the times of ``program``, expanded, by events of one of each kind of ranks that do not differ."""
    ranks = program.mesh.world_size
    most = MAX_EVENT_RANKS if ranks > MAX_EVENT_RANKS else ranks // 2
    try:
        times, num_lumps = simulate_lumps(program, costs, one_lane=one_lane, most=most)
    except IrregularError as error:
        check_events(program, Engine.SIMULATE, f"{reason}; {error}")
        return by_events(simulate(program, costs, one_lane=one_lane), reason)
    return by_events(times, f"one for each rank like it, {num_lumps} of {ranks}; {reason}")


def by_events(times: StepTimes, reason: str = "the order of ranks is the run's") -> StepTimes:
    """Return ``times`` with the note that events told them, and why not arrays."""
    return replace(times, simulated=(f"events: {reason}",))


def check_events(program: Program, engine: Engine, reason: str = "the order of ranks is the run's") -> None:  # fmt: skip
    """Raise :class:`UsageError` unless ``engine`` may simulate ``program`` by events."""
    ranks = program.mesh.world_size
    if engine is Engine.ARRAYS:
        raise UsageError(
            f"engine arrays needs ranks that do the same and messages that do not meet, but {reason}; "
            f"use --engine simulate, which chooses, or --engine solve"
        )
    if ranks > MAX_EVENT_RANKS:
        why = "" if reason is _ASKED_FOR else f", and arrays cannot tell: {reason}"
        todo = (
            "use --engine simulate, which takes ranks that are alike as one, or solve"
            if engine is Engine.EVENTS
            else "use --engine solve, fewer ranks, or layers and a batch that the mesh divides evenly"
        )
        raise UsageError(
            f"engine {engine} takes at most {MAX_EVENT_RANKS} ranks that differ by events, got {ranks}"
            f"{why}; {todo}"
        )
