"""Where the samples come from, as the command lines name it."""

from dataclasses import dataclass
from pathlib import Path

from exec.data.dataset import Dataset
from exec.data.limits import Limits
from exec.data.load import load_dataset
from exec.data.noise import noise_dataset
from exec.errors import UsageError
from exec.workload import Workload


@dataclass(frozen=True, slots=True)
class Source:
    """Where the samples come from; ``name`` is a dataset's, a CSV file's path, or noise."""

    name: str
    data_dir: Path | None
    test_file: Path | None
    fold: int
    num_train: int | None  # None is all of a file, or as many as are usually drawn.
    num_test: int | None
    seed: int

    @property
    def counts(self) -> tuple[int | None, int | None]:
        """Return how many training and test samples are asked for; None is all of a file."""
        if self.name in {"drawn", "noise"}:
            return Limits(self.num_train, self.num_test).drawn()
        return self.num_train, self.num_test

    def load(self) -> Dataset:
        """Return the dataset, which must not be noise: that has no width of its own."""
        return load_dataset(
            self.name, data_dir=self.data_dir, test_file=self.test_file, fold=self.fold,
            seed=self.seed, num_train=self.num_train, num_test=self.num_test,
        )  # fmt: skip

    def load_for(self, workload: Workload) -> Dataset:
        """Return the dataset, which must fit ``workload``.

        Raises:
            UsageError: the network or the batch does not fit it.
        """
        widths = workload.widths
        if self.name == "noise":
            num_train, num_test = Limits(self.num_train, self.num_test).drawn()
            dataset = noise_dataset(widths[0], widths[-1], num_train, num_test, self.seed)
        else:
            dataset = self.load()
        if (dataset.num_features, dataset.num_classes) != (widths[0], widths[-1]):
            suggestion = "-".join(
                map(str, (dataset.num_features, *widths[1:-1], dataset.num_classes))
            )
            raise UsageError(
                f"net must start with the {dataset.num_features} features and end with the "
                f"{dataset.num_classes} classes of {dataset.name}, got {workload.net}; "
                f"for example --net {suggestion}"
            )
        check_batch(dataset, workload.global_batch)
        return dataset


def check_batch(dataset: Dataset, batch: int) -> None:
    """Raise :class:`UsageError` unless ``dataset`` has enough training samples for one batch."""
    if len(dataset.train_labels) < batch:
        raise UsageError(
            f"batch must be at most the {len(dataset.train_labels)} training samples of "
            f"{dataset.name}, got {batch}"
        )
