"""What this machine is: ``python benchmarks/environment.py --out FILE``; nothing is measured."""

import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from records import check_writable, provenance, write_records

from exec.cli import make_app, run_app

COMMANDS = (("nvidia-smi",), ("nvidia-smi", "-q"), ("nvidia-smi", "topo", "-m"), ("nvcc", "--version"),
            ("lscpu",), ("numactl", "--hardware"), ("uname", "-a"))  # fmt: skip
PREFIXES = ("CUDA", "CUPY", "NCCL", "OMP", "OPENBLAS", "MKL", "MPI", "TORCH", "PYTORCH")

app = make_app("python benchmarks/environment.py", "Write down what this machine is.")


@app.default
def environment(*, out: Path) -> None:
    """Write down what this machine is.

    Parameters
    ----------
    out
        Write the records here, as JSON lines.
    """
    check_writable(out)
    write_records(out, [provenance(), *_records()])


def _records() -> Iterator[dict[str, object]]:
    packages = {each.metadata["Name"]: each.version for each in distributions()}
    yield {"kind": "packages", "packages": dict(sorted(packages.items()))}
    yield {"kind": "variables", "variables": {key: value for key, value in os.environ.items() if key.startswith(PREFIXES)}}  # fmt: skip
    for command in COMMANDS:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            yield {"kind": "command", "command": " ".join(command), "said": None, "failed": str(error)}  # fmt: skip
            continue
        yield {"kind": "command", "command": " ".join(command), "said": done.stdout, "failed": done.stderr or None}  # fmt: skip


if __name__ == "__main__":
    run_app(app)
