"""`--help` answers about as fast as its libraries import."""

import subprocess
import sys
import time

LIBRARIES = "import lightning.pytorch, transformers"


def seconds(*args: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *args], check=True, capture_output=True)
    return time.perf_counter() - start


def test_help_is_fast():
    ratios = []
    for _ in range(3):  # in turns; the quietest of three, since the machine may be shared
        libraries = seconds("-c", LIBRARIES)
        ratios.append(seconds("-m", "lightning_prefix", "--help") / libraries)
    assert min(ratios) <= 1.3, ratios


def test_import_loads_no_models():
    """transformers' modelling code, `datasets`, `optuna` and the like are loaded when they are used."""
    heavy = ("transformers.modeling_utils", "datasets", "pandas", "optuna")
    code = f"import sys, lightning_prefix; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
