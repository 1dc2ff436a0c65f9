import matplotlib as mpl
import pytest


@pytest.fixture(autouse=True)
def _no_windows():
    from matplotlib import pyplot as plt

    mpl.use("agg")
    yield
    plt.close("all")
