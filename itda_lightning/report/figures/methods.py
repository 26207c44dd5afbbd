"""Name the method of an entry and style its marks: methods differ by shape and dashes as well as by colour."""

import math
from collections.abc import Iterable
from itertools import count
from typing import NamedTuple

from itda_lightning.results.comparison import CONTROLS, Row

SAE_LABELS = {
    "topk": "TopK SAE",
    "abstopk": "AbsTopK SAE",
    "batchtopk": "BatchTopK SAE",
    "matryoshka_batchtopk": "Matryoshka BatchTopK SAE",
    "jumprelu": "JumpReLU SAE",
    "matching_pursuit": "matching pursuit SAE",
}
# For each family: (colour, a class of dashboard.css; shape), in the order in which methods get them.
ITDA_STYLES = (("blue", "circle"), ("sky", "diamond"), ("ink", "hexagon"))
SAE_STYLES = (
    ("vermilion", "square"),
    ("orange", "triangle"),
    ("green", "down"),
    ("purple", "pentagon"),
    ("yellow", "star"),
    ("ink", "square"),
)
CONTROL_STYLES = (("grey", "cross"), ("grey", "plus"), ("grey", "star"), ("grey", "square"))
FAMILIES = {"itda": ITDA_STYLES, "sae": SAE_STYLES} | dict.fromkeys(CONTROLS, CONTROL_STYLES)
# What has atoms and a pursuit, in plain English.
OF_ATOMS = {"itda": "ITDA", "random": "random atoms", "kmeans": "k-means centroids"}
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 2")
# Polygons: number of corners, angle of the first (0 is to the right, clockwise), radius that looks as large as a
# circle of radius 1.
CORNERS = {
    "square": (4, 45.0, 1.2),
    "diamond": (4, 0.0, 1.25),
    "triangle": (3, -90.0, 1.35),
    "down": (3, 90.0, 1.35),
    "pentagon": (5, -90.0, 1.15),
    "hexagon": (6, 0.0, 1.1),
}


class Method(NamedTuple):
    """A way to make entries, and the look of their marks: colour (a class of ``dashboard.css``), shape and dashes."""

    label: str
    colour: str
    shape: str
    dash: str


def method_label(row: Row) -> str:
    """Return the name of an entry's method, as in a legend."""
    if row.kind == "pca":
        return "principal components"
    if row.kind in ("sae", "frozen"):
        label = SAE_LABELS.get(row.architecture, f"{row.architecture} SAE".strip())
        return label if row.kind == "sae" else f"{label}, frozen decoder"
    pursuit = row.settings.get("pursuit", "").upper()
    return OF_ATOMS[row.kind] + (f", {pursuit}" if pursuit else "")


def methods_of(rows: Iterable[Row]) -> dict[str, Method]:
    """Return row name -> method, styled in the order of the rows; ITDAs, SAEs and controls never share a style."""
    methods: dict[str, Method] = {}
    numbers = {family: count() for family in FAMILIES.values()}
    labels = {row.name: (method_label(row), FAMILIES[row.kind]) for row in rows}
    for label, family in labels.values():
        if label not in methods:
            colour, shape = family[next(numbers[family]) % len(family)]
            methods[label] = Method(label, colour, shape, DASHES[len(methods) % len(DASHES)])
    return {name: methods[label] for name, (label, _) in labels.items()}


def marker(shape: str, x: float, y: float, radius: float) -> str:
    """Return SVG path data of a mark."""
    if shape == "circle":
        half = f"a{radius:.2f} {radius:.2f} 0 1 0"
        return f"M{x - radius:.2f} {y:.2f}{half} {2 * radius:.2f} 0{half} {-2 * radius:.2f} 0Z"
    if shape in ("cross", "plus"):
        turn = 45.0 if shape == "cross" else 0.0
        ends = [_around(x, y, radius * 1.2, turn + 90 * quarter) for quarter in range(4)]
        return f"M{ends[0]}L{ends[2]}M{ends[1]}L{ends[3]}"
    if shape == "star":
        points = [_around(x, y, radius * (1.45, 0.65)[k % 2], -90.0 + 36 * k) for k in range(10)]
    else:
        corners, first, larger = CORNERS[shape]
        points = [_around(x, y, radius * larger, first + 360.0 * k / corners) for k in range(corners)]
    return "M" + "L".join(points) + "Z"


def _around(x: float, y: float, radius: float, degrees: float) -> str:
    angle = math.radians(degrees)
    return f"{x + radius * math.cos(angle):.2f} {y + radius * math.sin(angle):.2f}"
