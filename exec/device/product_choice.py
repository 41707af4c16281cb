"""Which way a product of matrices goes, as plain data that ranks can exchange.

Two algorithms may add in different orders. Ranks that compute the same numbers must take the same
one: tune on one of them, and give its choices to the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from exec.device.gemm import Gemm

LARGEST_ALIGNMENT = 256  # bytes: what cuBLASLt assumes unless it is told less


class ProductRoute(StrEnum):
    """What multiplies matrices."""

    CUBLASLT = "cublaslt"
    CUBLAS = "cublas"
    OWN = "own"
    AUTO = "auto"  # the fastest of them for each shape, timed when bound


@dataclass(frozen=True, slots=True)
class Choice:
    """A route, with cuBLASLt's algorithm where it is that: opaque bytes, for one cuBLAS version."""

    route: ProductRoute
    algorithm: bytes = b""

    def __str__(self) -> str:
        return f"{self.route}:{self.algorithm.hex()}" if self.algorithm else str(self.route)

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Return the choice that ``str`` wrote.

        Raises:
            ValueError: it is none.
        """
        route, _, algorithm = text.partition(":")
        return cls(ProductRoute(route), bytes.fromhex(algorithm))


@dataclass(slots=True)
class Tuning:
    """The choices made so far, by :func:`choice_key`; ``num_candidates`` are timed for new ones.

    With no candidates nothing new is timed, and ``choices`` are all there are.
    """

    num_candidates: int = 8
    choices: dict[str, Choice] = field(default_factory=dict)

    def exported(self) -> dict[str, str]:
        """Return the choices as text, for JSON or for other ranks."""
        return {key: str(choice) for key, choice in self.choices.items()}

    @classmethod
    def imported(cls, choices: Mapping[str, str], num_candidates: int = 0) -> "Tuning":
        """Return what ``exported`` gave."""
        parsed = {key: Choice.parse(text) for key, text in choices.items()}
        return cls(num_candidates, parsed)


def alignment_of(pointer: int) -> int:
    """Return the largest power of two up to 256 that divides ``pointer``.

    >>> alignment_of(1024 + 16), alignment_of(4096)
    (16, 256)
    """
    return min(LARGEST_ALIGNMENT, pointer & -pointer or LARGEST_ALIGNMENT)


def choice_key(gemm: Gemm, *, is_tf32: bool, is_added: bool) -> str:
    """Return what the best algorithm depends on; ``is_added``: beta is not 0."""
    flags = "".join("nt"[each.is_transposed] for each in (gemm.left, gemm.right))
    leading = (gemm.left.leading, gemm.right.leading, gemm.c_leading)
    aligned = [alignment_of(each) for each in (gemm.left.pointer, gemm.right.pointer, gemm.c)]
    precision = "tf32" if is_tf32 and gemm.dtype.itemsize == 4 else gemm.dtype.name
    return (
        f"{precision} {flags}{'+' if is_added else ''} {gemm.m}x{gemm.n}x{gemm.k} "
        f"leading {'/'.join(map(str, leading))} aligned {'/'.join(map(str, aligned))}"
    )
