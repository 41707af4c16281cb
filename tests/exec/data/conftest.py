"""The optional folder of real data."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data, or skip where there is none."""
    named = os.environ.get("STEPCAST_DATA_DIR")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs real data: set STEPCAST_DATA_DIR")
    return folder
