"""Where Stepcast keeps what it made or fetched: datasets and this machine's profile."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return ``$STEPCAST_CACHE``, else ``$XDG_CACHE_HOME/stepcast``, else ``~/.cache/stepcast``."""
    if own := os.environ.get("STEPCAST_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    base = shared if os.path.isabs(shared) else os.path.expanduser("~/.cache")
    return Path(base) / "stepcast"
