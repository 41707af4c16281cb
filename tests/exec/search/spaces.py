"""Random spaces and trials for the tests of the search."""

from hypothesis import strategies as st

from exec.search.record import EpochResult, State, TrialResult
from exec.search.space import Config, Space, parse_space

WHOLE = st.integers(1, 300)
RATES = st.floats(1e-4, 4.0)


def values(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[str]:
    """Return texts of lists."""
    lists = st.lists(numbers, min_size=1, max_size=4, unique=True)
    return lists.map(lambda found: ",".join(map(str, found)))


def ranges(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[str]:
    """Return texts of ranges."""
    pairs = st.lists(numbers, min_size=2, max_size=2, unique=True)
    return pairs.map(lambda found: ":".join(map(str, sorted(found))))


def texts_of(
    whole: st.SearchStrategy[str], rates: st.SearchStrategy[str]
) -> st.SearchStrategy[dict[str, str]]:
    """Return what the command line would say."""
    return st.fixed_dictionaries({
        "layers": whole, "units": whole, "learning_rate": rates, "batch": whole, "epochs": whole,
    })  # fmt: skip


GRIDS = texts_of(values(WHOLE), values(RATES)).map(parse_space)
TEXTS = texts_of(values(WHOLE) | ranges(WHOLE), values(RATES) | ranges(RATES))
SPACES = TEXTS.map(parse_space)
SMALL = parse_space(
    {"layers": "1,2", "units": "5:50", "learning_rate": "0.1:1", "batch": "32", "epochs": "2"}
)


def is_in(space: Space, config: Config) -> bool:
    """Say whether ``config`` is a point of ``space``."""
    for name, dimension in space.dimensions.items():
        value = getattr(config, name)
        low, high = dimension.ends
        if not low <= value <= high or (hasattr(dimension, "values") and value not in dimension.values):  # fmt: skip
            return False
        if name != "learning_rate" and type(value) is not int:
            return False
    return True


def result(
    index: int, accuracy: float | None = 0.5, *, start_s: float = 0.0, time_s: float = 1.0,
    config: Config | None = None, loss: float = 1.0, group: int = 0, session: int = 0,
) -> TrialResult:  # fmt: skip
    """Return a finished trial; one without accuracy has failed."""
    is_done = accuracy is not None
    return TrialResult(
        index=index, config=config or Config(1, 10, 0.5, 32, 1),
        state=State.DONE if is_done else State.FAILED, reason="" if is_done else "the loss is nan",
        accuracy=accuracy, loss=loss if is_done else None,
        epochs=(EpochResult(epoch=1, loss=loss, accuracy=accuracy, time_s=time_s),) if is_done else (),
        train_time_s=time_s, started_s=start_s, ended_s=start_s + time_s, group=group, session=session,
    )  # fmt: skip
