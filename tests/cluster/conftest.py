"""A rig for tests: a name of this process's own, and a skip where there can be none."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster import rig
from tests.cluster.spec import Spec

NAME = f"test{os.getpid()}"


@pytest.fixture(scope="session")
def able(mpiexec: str) -> None:
    """Skip with the reason where this machine cannot have a rig."""
    try:
        with rig.cluster(Spec(1, 100_000_000), NAME):
            pass
    except rig.RigError as error:
        pytest.skip(str(error))


@pytest.fixture
def name(able: None) -> Iterator[str]:
    """Return the name of a rig that is not up yet; take it down if the test leaves it up."""
    yield NAME
    rig.down(NAME)
