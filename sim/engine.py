"""The engines by name; :mod:`sim.engines` has those that simulate, which take longer to import."""

from enum import StrEnum

MAX_EVENT_RANKS = 512
"""How many ranks that differ are simulated by events, which list them one by one."""


class Engine(StrEnum):
    """Which reader answers; ``simulate`` is ``arrays`` where they are exact, else ``events``."""

    SOLVE = "solve"
    SIMULATE = "simulate"
    ARRAYS = "arrays"
    EVENTS = "events"


READERS = (Engine.SOLVE, Engine.SIMULATE)
"""The engines that take every plan."""
