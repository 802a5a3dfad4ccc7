"""The chart of documents over time: where its bars, lines and labels go. The template draws it, and its table."""

from collections.abc import Mapping
from typing import NamedTuple

from export_pipeline.formats.html_times import Bar, spans

WIDTH, HEIGHT = 760, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 14, 30
_WIDEST_BAR = 56
_LOWEST_BAR = 1.5
_MOST_LABELS = 9
_STEPS = (1, 2, 5)
_MOST_LINES = 4


class PlacedBar(NamedTuple):
    """A bar, in the units of the drawing."""

    bar: Bar
    x: float
    y: float
    width: float
    height: float


class Line(NamedTuple):
    """A line across the drawing, and the number that it stands for."""

    y: float
    documents: int


class Label(NamedTuple):
    """What stands under a bar."""

    x: float
    text: str


class Chart(NamedTuple):
    """All that is drawn."""

    unit: str
    documents: int
    bars: list[PlacedBar]
    lines: list[Line]
    labels: list[Label]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM

    @property
    def highest(self) -> Bar:
        """The bar with the most documents."""
        return max((placed.bar for placed in self.bars), key=lambda bar: bar.documents)


def chart(months: Mapping[int, int]) -> Chart | None:
    """Return the chart of documents by month (see ``month_of``); None where no document has a time."""
    unit, bars = spans(months)
    if not bars:
        return None
    line_every = _line_every(max(bar.documents for bar in bars))
    top = -(-max(bar.documents for bar in bars) // line_every) * line_every
    height = HEIGHT - _TOP - _BOTTOM
    step = (WIDTH - _LEFT - _RIGHT) / len(bars)
    width = min(step * 0.78, _WIDEST_BAR)

    def x(number: int) -> float:
        return _LEFT + step * (number + 0.5)

    def tall(documents: int) -> float:
        return height * documents / top

    placed = []
    for number, bar in enumerate(bars):
        high = max(tall(bar.documents), _LOWEST_BAR) if bar.documents else 0
        left, upper = x(number) - width / 2, HEIGHT - _BOTTOM - high
        placed.append(PlacedBar(bar, round(left, 1), round(upper, 1), round(width, 1), round(high, 1)))
    labels = [Label(round(x(i), 1), bars[i].short) for i in range(0, len(bars), -(-len(bars) // _MOST_LABELS))]
    lines = [Line(round(HEIGHT - _BOTTOM - tall(n), 1), n) for n in range(0, top + 1, line_every)]
    return Chart(unit, sum(bar.documents for bar in bars), placed, lines, labels)


def _line_every(highest: int) -> int:
    """Return a round number of documents, so that few lines are enough."""
    unit = 1
    while True:
        for step in _STEPS:
            if step * unit * _MOST_LINES >= highest:
                return step * unit
        unit *= 10
