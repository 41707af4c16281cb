"""The 26 lowercase letters as pen strokes, in one or two hands each.

A stroke is a list of points that the pen passes through along a smooth curve; two points make a
straight line, and a corner is where one stroke ends and the next begins. Points are ``x,y`` in
hundredths of the letter's box, from its top left corner; ``/`` lifts the pen. The shapes are ours.

Everything here is plain Python arithmetic, whose bits are the same on every platform.
"""

from itertools import pairwise
from math import floor, sqrt

Point = tuple[float, float]

_STEPS_PER_SPAN = 16  # Straight pieces between two points of a stroke.

GLYPHS: dict[str, tuple[str, ...]] = {
    "a": (
        "84,36 62,23 34,25 13,43 14,65 34,77 60,70 83,46 / 84,22 83,56 86,72 97,77",
        "14,32 40,22 70,26 82,42 84,78 / 82,48 50,47 18,55 12,68 34,78 60,74 84,62",
    ),
    "b": (
        "14,2 14,98 / 14,58 40,44 74,49 86,70 74,93 44,98 14,88",
        "22,2 16,40 14,76 32,97 64,95 84,75 72,54 44,52 16,68",
    ),
    "c": (
        "88,36 66,22 34,26 12,42 10,60 30,76 62,78 90,66",
        "72,34 56,22 28,34 16,58 28,77 56,76 88,60",
    ),
    "d": (
        "86,2 86,98 / 86,58 60,44 28,48 12,70 26,94 56,98 86,84",
        "80,2 78,60 80,86 97,97 / 78,62 54,48 24,54 10,76 26,97 54,92 78,72",
    ),
    "e": (
        "12,51 88,50 / 88,50 78,27 48,22 18,33 10,56 26,76 56,79 90,67",
        "14,64 52,58 78,40 66,22 40,26 18,46 18,68 42,80 68,76 94,60",
    ),
    "f": (
        "86,10 66,2 48,12 44,38 44,98 / 14,42 80,40",
        "90,13 72,2 56,14 50,50 44,84 28,98 10,92 / 20,46 82,43",
    ),
    "g": (
        "82,12 52,2 22,7 12,26 24,46 54,48 82,34 / 84,2 85,44 82,80 60,97 32,96 14,84",
        "78,10 50,2 22,8 14,26 26,44 54,44 78,28 / 80,2 82,66 68,92 42,98 24,88 38,74 68,64 96,56",
    ),
    "h": (
        "14,2 14,98 / 14,66 34,48 62,45 81,58 84,98",
        "14,98 13,50 20,12 36,2 46,14 36,38 15,62 / 14,74 38,52 62,50 74,64 76,88 95,97",
    ),
    "i": (
        "50,36 50,96 / 50,7 50,11",
        "38,36 42,70 50,91 66,96 82,84 / 44,8 49,11",
    ),
    "j": (
        "66,32 67,70 61,92 42,98 18,88 / 67,4 67,8",
        "34,33 68,32 / 68,32 68,78 52,97 22,92 / 66,5 70,8",
    ),
    "k": (
        "14,2 14,98 / 82,44 50,62 15,72 / 36,67 62,80 88,98",
        "14,2 13,98 / 14,74 38,52 64,48 72,58 54,70 22,74 / 44,72 62,88 92,97",
    ),
    "l": (
        "50,2 50,98",
        "24,72 58,40 66,12 52,2 40,14 37,60 43,88 60,98 80,90",
    ),
    "m": (
        "2,22 2,78 / 2,40 20,24 38,25 49,42 50,78 / 50,40 68,24 86,25 97,42 98,78",
        "2,22 4,78 / 4,50 20,26 38,26 50,44 50,77 / 50,46 66,25 84,28 92,48 93,68 102,76",
    ),
    "n": (
        "14,22 14,78 / 14,46 36,27 64,23 82,37 85,78",
        "6,30 16,24 17,77 / 17,52 42,29 62,27 73,44 74,67 82,78 97,70",
    ),
    "o": (
        "50,22 22,29 10,50 22,71 50,78 78,71 90,50 78,29 50,22",
        "60,26 34,22 14,40 14,62 36,78 64,73 80,54 74,34 56,24 62,36 95,34",
    ),
    "p": (
        "14,2 14,98 / 14,14 42,2 76,8 86,28 74,48 44,54 14,42",
        "6,10 18,4 18,98 / 18,24 42,5 70,6 84,24 74,44 46,50 30,42",
    ),
    "q": (
        "84,12 54,2 22,7 12,27 24,48 54,51 84,38 / 86,2 86,98",
        "76,10 48,2 20,8 10,27 22,46 48,48 76,32 / 78,2 76,70 78,97 97,80",
    ),
    "r": (
        "24,22 24,78 / 24,48 40,31 62,23 86,29",
        "6,35 22,24 29,40 30,78 / 30,58 44,32 64,23 88,35",
    ),
    "s": (
        "84,31 56,22 26,27 22,40 50,50 78,59 79,72 48,79 14,70",
        "8,60 48,23 / 48,23 58,40 86,58 82,75 58,79 40,76",
    ),
    "t": (
        "46,4 45,78 56,96 84,90 / 14,32 82,31",
        "50,4 50,96 / 12,28 88,27",
    ),
    "u": (
        "13,22 13,56 28,76 56,75 83,52 / 84,22 86,78",
        "6,28 15,24 15,58 28,76 52,72 74,48 / 75,22 74,62 82,77 97,72",
    ),
    "v": (
        "10,22 49,78 / 49,78 90,22",
        "6,30 22,23 36,60 48,78 68,56 78,24 95,27",
    ),
    "w": (
        "1,22 26,78 / 26,78 50,32 / 50,32 74,78 / 74,78 99,22",
        "2,22 6,62 25,78 45,64 50,36 / 50,36 55,64 75,78 94,62 98,22",
    ),
    "x": (
        "12,22 88,78 / 86,22 14,78",
        "8,30 28,23 50,50 70,77 92,70 / 88,22 50,50 14,78",
    ),
    "y": (
        "12,2 52,54 / 88,2 52,54 22,98",
        "14,2 14,34 34,49 62,44 84,26 / 86,2 85,60 76,90 50,98 20,88",
    ),
    "z": (
        "12,22 86,22 / 86,22 12,78 / 12,78 90,78",
        "12,28 46,22 84,24 / 84,24 12,76 / 12,76 52,72 92,78 / 28,50 74,50",
    ),
}


def trace(glyph: str, num_points: int, width: float, height: float) -> list[Point]:
    """Return ``num_points`` points evenly spaced along the strokes of a ``width x height`` box."""
    strokes = [_curve(stroke, width, height) for stroke in glyph.split("/")]
    lengths = [sum(_distance(a, b) for a, b in pairwise(stroke)) for stroke in strokes]
    # Each stroke gets its two ends, and the rest is shared out by length.
    spare = num_points - 2 * len(strokes)
    total = sum(lengths)
    points: list[Point] = []
    drawn = 0.0
    for stroke, length in zip(strokes, lengths, strict=True):
        first = floor(spare * drawn / total + 0.5)
        drawn += length
        last = floor(spare * drawn / total + 0.5)
        points += _evenly(stroke, length, 2 + last - first)
    return points


def _curve(stroke: str, width: float, height: float) -> list[Point]:
    """Return the stroke's Catmull-Rom curve (Catmull and Rom 1974) as a fine polyline."""
    knots: list[Point] = []
    for pair in stroke.split():
        x, y = pair.split(",")
        knots.append((int(x) * width / 100, int(y) * height / 100))
    before = (2 * knots[0][0] - knots[1][0], 2 * knots[0][1] - knots[1][1])
    after = (2 * knots[-1][0] - knots[-2][0], 2 * knots[-1][1] - knots[-2][1])
    padded = [before, *knots, after]
    curve = [knots[0]]
    for span in range(len(knots) - 1):
        a, b, c, d = padded[span : span + 4]
        for step in range(1, _STEPS_PER_SPAN + 1):
            t = step / _STEPS_PER_SPAN
            curve.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    return curve


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    linear = c - a
    square = 2 * a - 5 * b + 4 * c - d
    cube = 3 * b - a - 3 * c + d
    return b + t * (linear + t * (square + t * cube)) / 2


def _evenly(curve: list[Point], length: float, num_points: int) -> list[Point]:
    points = [curve[0]]
    walked = 0.0
    for start, end in pairwise(curve):
        piece = _distance(start, end)
        while len(points) < num_points - 1:
            share = (length * len(points) / (num_points - 1) - walked) / piece
            if share > 1:
                break
            points.append(
                (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
            )
        walked += piece
    # Rounding may leave the last inner point unplaced; it lies at the end then.
    return points + [curve[-1]] * (num_points - len(points))


def _distance(a: Point, b: Point) -> float:
    # Not hypot: the C library rounds it as it pleases, while a square root is exact everywhere.
    return sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]))
