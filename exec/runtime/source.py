"""Where the samples come from, as the command lines name it."""

from dataclasses import dataclass
from pathlib import Path

from exec.data.dataset import Dataset
from exec.data.limits import Limits
from exec.data.load import load_dataset
from exec.data.noise import noise_dataset
from exec.errors import UsageError
from exec.network.network import Image, Network, spell_shape
from exec.network.parse import with_image
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
        network = workload.network
        if self.name == "noise":
            num_train, num_test = Limits(self.num_train, self.num_test).drawn()
            dataset = noise_dataset(
                network.image, network.num_classes, num_train, num_test, self.seed
            )
        else:
            dataset = self.load()
        check_fits(network, dataset)
        check_batch(dataset, workload.global_batch)
        return dataset


def check_fits(network: Network, dataset: Dataset) -> None:
    """Raise :class:`UsageError` unless ``network`` takes the images of ``dataset``, and its classes.

    One of dense layers, whose images are flat, takes any with as many numbers.
    """
    is_flat = network.image[1:] == (1, 1)
    fits = dataset.num_features == network.num_features and (
        is_flat or dataset.image_shape == network.image
    )
    if fits and dataset.num_classes == network.num_classes:
        return
    suggestion = with_image(network.name, dataset.image_shape, dataset.num_classes)
    raise UsageError(
        f"net must take the {_spell(dataset.image_shape)} of {dataset.name} and tell its "
        f"{dataset.num_classes} classes apart, got {network.name} with "
        f"{spell_shape(network.image)} and {network.num_classes}; "
        + (f"for example --net {suggestion}" if suggestion else "use a net that does")
    )


def _spell(shape: Image) -> str:
    """Return ``shape`` for people; rows of numbers that are no rectangle are features."""
    return f"{shape[2]} features" if shape[:2] == (1, 1) else f"{spell_shape(shape)} images"


def check_batch(dataset: Dataset, batch: int) -> None:
    """Raise :class:`UsageError` unless ``dataset`` has enough training samples for one batch."""
    if len(dataset.train_labels) < batch:
        raise UsageError(
            f"batch must be at most the {len(dataset.train_labels)} training samples of "
            f"{dataset.name}, got {batch}"
        )
