"""How many samples to take: of a file the first ones, of a drawn set as many as are wanted."""

from dataclasses import dataclass

from exec.errors import UsageError

_DRAWN_TRAIN, _DRAWN_TEST = 20_000, 4_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How many samples to train and test on; None is all of a file, or the usual number drawn.

    Raises:
        UsageError: one of them is not positive.
    """

    num_train: int | None = None
    num_test: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could only be an empty dataset."""
        for option, count in (("num_train", self.num_train), ("num_test", self.num_test)):
            if count is not None and count <= 0:
                raise UsageError(f"{option} must be positive, got {count}")

    def drawn(self) -> tuple[int, int]:
        """Return how many training and test samples to draw."""
        return (
            _DRAWN_TRAIN if self.num_train is None else self.num_train,
            _DRAWN_TEST if self.num_test is None else self.num_test,
        )

    def first(self, name: str, num_train: int, num_test: int) -> tuple[int, int, str]:
        """Return how many to take of those there are in ``name``, and the words that say so.

        The words are empty where that is all of them, and go to the end of ``Dataset.source``.

        Raises:
            UsageError: more are wanted than there are.
        """
        taken, words = [], ""
        for half, does, limit, there in (
            ("train", "trains", self.num_train, num_train),
            ("test", "tests", self.num_test, num_test),
        ):
            if limit is not None and limit > there:
                kind = "training" if half == "train" else half
                raise UsageError(
                    f"num_{half} must be at most the {there} {kind} samples of {name}, got {limit}"
                )
            taken.append(there if limit is None else limit)
            if taken[-1] < there:
                words += f"; {does} on the first {limit} of {there}"
        return taken[0], taken[1], words
