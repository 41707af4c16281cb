"""``python -m calibration`` whose ``--quick`` is as short as it goes: it measures all, and nothing well."""

from calibration import __main__ as calibration
from exec.cli import run_app

if __name__ == "__main__":
    calibration._QUICK = (16, 0.002, 1)
    run_app(calibration.app)
