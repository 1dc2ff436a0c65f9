"""What all pictures share: matplotlib, colours, heat maps, files."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
"""Told apart by the colour-blind (Okabe and Ito 2008)."""
COLOURS = "cividis"
"""Even in brightness, for the colour-blind too (Nunez et al. 2018)."""
_MISSING = "0.88"


def import_matplotlib(extra: str = "plot") -> None:
    """Check that pictures can be drawn.

    Args:
        extra: of this package, which brings matplotlib.

    Raises:
        InputError: if matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"plots need the package matplotlib, which cannot be imported ({error}). Run: pip install "
            f"'lightning-prefix[{extra}]'"
        ) from error


def subplots(rows: int, columns: int, width: float, height: float, **options: Any) -> "tuple[Figure, NDArray[Any]]":
    """A figure and its axes, (rows, columns).

    Args:
        rows: of panels.
        columns: of panels.
        width: of the figure, inches.
        height: of the figure, inches.
        options: of `pyplot.subplots`.
    """
    import_matplotlib()
    from matplotlib import pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)


def by_kind(sites: Sequence[AttentionSite]) -> dict[str, list[AttentionSite]]:
    """The sites of each kind, in the order of their layers."""
    kinds = dict.fromkeys(site.kind for site in sites)
    return {kind: sorted((s for s in sites if s.kind == kind), key=lambda s: s.layer) for kind in kinds}


def heat_map(
    axes: "Axes", values: "Mapping[int, Sequence[float]]", colours: str, low: float, high: float, **labels: str
) -> None:
    """One row of cells per layer, the first layer below; rows may have unequal lengths.

    Args:
        axes: to draw on.
        values: of each layer.
        colours: what the colours say.
        low: of the darkest colour.
        high: of the brightest colour.
        labels: of `axes.set`.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    layers = list(range(min(values), max(values) + 1))
    cells = np.full((len(layers), max(map(len, values.values()))), np.nan)
    for layer, row in values.items():
        cells[layer - layers[0], : len(row)] = row
    image = axes.imshow(
        cells,
        cmap=colormaps[COLOURS].with_extremes(bad=_MISSING),
        vmin=low,
        vmax=high,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, cells.shape[1] - 0.5, layers[0] - 0.5, layers[-1] + 0.5),
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=10))
    axes.set(**labels)
    axes.figure.colorbar(image, ax=axes, label=colours)


@contextmanager
def drawing_to_files() -> Iterator[None]:
    """Inside, no window is opened; afterwards all figures made inside are closed."""
    from matplotlib import pyplot as plt

    backend, before = plt.get_backend(), plt.get_fignums()
    with plt.rc_context():
        plt.switch_backend("agg")
        try:
            yield
        finally:
            for number in set(plt.get_fignums()) - set(before):
                plt.close(number)
            plt.switch_backend(backend)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in one move, in the format of the suffix: png, svg, pdf."""
    half = path.with_name(f".half-{path.name}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # said once, in words, by `use_fonts`
        figure.savefig(half, dpi=120, bbox_inches="tight")
    half.replace(path)
