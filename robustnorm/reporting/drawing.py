"""The style of figures, one color per model for light and dark pages, and how they are saved."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from robustnorm.reporting.model_records import NAMES, ModelRecords

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, RULE = "#1c1e21", "#d5d7da"
# Colors on light and on dark pages, with a contrast of at least 3:1. With the markers, color-blind
# readers can tell them apart. The first four belong to the paper's norms; controls are grey.
PALETTE = (
    ("#0067a5", "#62b4ee"),
    ("#b87400", "#e8a838"),
    ("#00805f", "#3cc49d"),
    ("#cc3d1c", "#ff8763"),
    ("#9a4f96", "#d693d1"),
    ("#5f5fae", "#a5a5f0"),
    ("#7d6a2e", "#c9b471"),
    ("#a0305f", "#ef86ae"),
)
CONTROL = ("#757575", "#a3a3a3")
_MARKERS = "osD^vPXp"
_VARIABLES = {INK: "--ink", RULE: "--rule", CONTROL[0]: "--control", "#ffffff": "--page"} | {
    light: f"--model-{number}" for number, (light, _) in enumerate(PALETTE)
}
_STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is literal
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: smaller, searchable, in the page's font
    "svg.hashsalt": "robustnorm",  # makes identifiers reproducible
}


class Look(NamedTuple):
    """The appearance of a model in all figures of a report."""

    color: str
    dark: str
    marker: str


def looks(models: Sequence[ModelRecords]) -> dict[str, Look]:
    """Returns the look of each model by name; a norm has its own color if that is still free."""
    order = list(NAMES)
    free = list(range(len(PALETTE)))
    chosen: dict[str, Look] = {}
    for number, model in enumerate(models):
        if not model.adversarial:
            chosen[model.name] = Look(*CONTROL, "x")
            continue
        wanted = order.index(model.norm) if model.norm in order else number
        free = free or list(range(len(PALETTE)))
        index = wanted if wanted in free else free[0]
        free.remove(index)
        chosen[model.name] = Look(*PALETTE[index], _MARKERS[index])
    return chosen


def variables() -> dict[str, tuple[str, str]]:
    """Returns the page's color variables for models: light and dark color by name."""
    return {_VARIABLES[light]: (light, dark) for light, dark in (*PALETTE, CONTROL)}


def variable(color: str) -> str:
    """Returns the page's variable for one of this file's colors."""
    return _VARIABLES[color]


@contextmanager
def style() -> Iterator[None]:
    """Draws in the report's style within the block, then restores matplotlib's settings."""
    with matplotlib.rc_context(_STYLE):
        yield


def panels(
    rows: int, columns: int, height: float, *, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Returns a figure as wide as the page's text, and its axes, row by row."""
    engine = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    figure = Figure(figsize=(7.4, 0.55 + height * rows), layout=engine)
    return figure, list(
        figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).flat
    )


def legend(figure: Figure, drawn: dict[str, Look], extra: Sequence[Line2D] = ()) -> None:
    """Puts a legend of the models, and of ``extra`` lines, above the panels."""
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, label=name)
        for name, look in drawn.items()
    ]
    lengths = [len(str(handle.get_label())) + 8 for handle in [*handles, *extra]]
    figure.legend(
        handles=[*handles, *extra],
        loc="outside upper left",
        # One line if all entries fit, which takes at most about 120 characters.
        ncols=len(lengths) if sum(lengths) <= 120 else max(1, 120 // max(lengths)),
        columnspacing=1.6,
        borderaxespad=0,
        borderpad=0.2,
    )


def save(figure: Figure) -> dict[str, bytes]:
    """Returns the figure on white as an "svg" and a "png" file; the same bytes every time."""
    # Fields to leave out, since they hold a date or a version.
    metadata = {"svg": ("Creator", "Date", "Format", "Type"), "png": ("Software",)}
    files: dict[str, bytes] = {}
    for suffix, omitted in metadata.items():
        file = io.BytesIO()
        with style():
            figure.savefig(
                file, format=suffix, dpi=160, facecolor="white", metadata=dict.fromkeys(omitted)
            )
        figure.set_layout_engine("none")  # the layout is done, and repeating it takes long
        files[suffix] = file.getvalue()
    return files


def inline(svg: bytes, name: str, alt: str) -> str:
    """Returns an SVG file as an element of a page.

    Its colors become the page's variables, so that they follow the light or dark mode, and its font
    the page's. Its identifiers begin with its name, so that those of two figures differ.

    Args:
        svg: From ``save``.
        name: Name of the figure, unique on the page.
        alt: Description for readers who cannot see it.
    """
    root = ElementTree.fromstring(svg)
    used = set(re.findall(rb'(?:href="|url\()#([\w.-]+)', svg))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: text for key, text in element.attrib.items()}
        if attributes.get("id", "").encode() not in used:
            attributes.pop("id", None)
        for key, text in attributes.items():
            if key == "id":
                attributes[key] = f"{name}-{text}"
            elif key == "href" or text.startswith("url("):
                attributes[key] = text.replace("#", f"#{name}-")
            elif key == "style":
                text = re.sub(r"font-family: [^;]*; ", "", text)
                attributes[key] = re.sub(
                    r"#[0-9a-f]{6}",
                    lambda m: f"var({_VARIABLES[m[0]]})" if m[0] in _VARIABLES else m[0],
                    text,
                )
        element.attrib = attributes
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt}
    root.remove(root[0])  # matplotlib's style sheet, which would apply to the whole page
    return ElementTree.tostring(root, encoding="unicode")
