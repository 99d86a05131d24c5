"""The line drawings of the report, as inline SVG that takes its colours from the page's style sheet.

A drawing has its own units, about one a pixel; x grows to the right and y downwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from blocklora.metrics import Reliability, RiskCoverage, wilson_interval

__all__ = [
    "Frame",
    "dot",
    "horizontal_axis",
    "learning_curve",
    "line",
    "nice_ticks",
    "reliability_diagram",
    "risk_coverage_curve",
    "svg",
    "text",
]

MOST_POINTS = 300  # a longer history is averaged in groups, to keep the page small


@dataclass(frozen=True)
class Frame:
    """Where data lie in a drawing: data limits, and the sides of the plot."""

    x_limits: tuple[float, float]
    y_limits: tuple[float, float]
    left: float
    right: float
    top: float
    bottom: float

    def x(self, value: float) -> float:
        """The horizontal place of a data value."""
        low, high = self.x_limits
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """The vertical place of a data value."""
        low, high = self.y_limits
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def nice_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About ``n`` round values, 1, 2 or 5 times a power of ten apart, that enclose ``low`` < ``high``."""
    rough = (high - low) / n
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = floor(low / step + 1e-9)
    ticks = [first * step]
    while ticks[-1] < high - 1e-9 * step:
        ticks.append((first + len(ticks)) * step)
    return ticks


def learning_curve(history: Sequence[Mapping[str, float | None]]) -> Markup | None:
    """The training loss at each step, with its running mean.

    Args:
        history: ``step`` and ``loss`` of each step; a loss that is missing or not finite is passed over.

    Returns:
        The drawing; None if no two steps with a loss are known.
    """
    pairs = [(point.get("step"), point.get("loss")) for point in history]
    known = [(step, loss) for step, loss in pairs if step is not None and loss is not None and isfinite(loss)]
    if len({step for step, _ in known}) < 2:
        return None
    points = _thinned(np.array(sorted(known)))
    steps, losses = points[:, 0], points[:, 1]
    smooth = _running_mean(losses)
    y_ticks = nice_ticks(min(0.0, losses.min()), max(losses.max(), 1e-3), 4)
    frame = Frame((steps[0], steps[-1]), (y_ticks[0], y_ticks[-1]), 40, 382, 24, 210)
    x_ticks = [t for t in nice_ticks(steps[0], steps[-1], 5) if steps[0] <= t <= steps[-1]]
    parts = _axes(frame, x_ticks, y_ticks, "step", "loss")
    parts += [_path(frame, steps, losses, "raw"), _path(frame, steps, smooth, "line")]
    first, last = f"{smooth[0]:.3g} at step {steps[0]:.0f}", f"{smooth[-1]:.3g} at step {steps[-1]:.0f}"
    label = f"Training loss, from {first} to {last}."
    return svg(400, 250, label, parts)


def reliability_diagram(bins: Reliability) -> Markup:
    """How often the model is correct at each confidence, above how often it is so confident.

    Args:
        bins: What ``metrics.reliability_bins`` gives.

    Returns:
        The drawing.
    """
    share = Frame((0, 1), (0, 1), 40, 308, 24, 292)
    amount = Frame((0, 1), (0, max(*bins.counts, 1)), 40, 308, 304, 344)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = _axes(share, [], ticks, "", "correct", percent=True)
    parts.append(line(share.x(0), share.y(0), share.x(1), share.y(1), "ideal"))
    edges, columns = bins.edges, (bins.counts, bins.confidence, bins.accuracy)
    for low, high, n, confidence, accuracy in zip(edges[:-1], edges[1:], *columns, strict=True):
        if confidence is None or accuracy is None:
            continue
        x, width = share.x(low) + 1, share.x(high) - share.x(low) - 2
        least, most = wilson_interval(round(accuracy * n), n)
        parts += [
            _rect(x, share.y(accuracy), width, share.bottom - share.y(accuracy), "bin"),
            line(share.x(confidence), share.y(least), share.x(confidence), share.y(most), "whisker"),
            dot(share.x(confidence), share.y(accuracy)),
            _rect(x, amount.y(n), width, amount.bottom - amount.y(n), "amount"),
        ]
    parts += horizontal_axis(amount, ticks, "confidence", percent=True)
    label = (
        "Reliability diagram: the share of correct predictions at each confidence; the dashed line is ideal."
    )
    return svg(328, 384, label, parts)


def risk_coverage_curve(risk: RiskCoverage) -> Markup:
    """The accuracy of the surest answers, for every share of images that are answered.

    Args:
        risk: What ``metrics.risk_coverage`` gives.

    Returns:
        The drawing.
    """
    shares, accuracies = (np.array([point[i] for point in risk.points]) for i in (1, 2))
    y_ticks = nice_ticks(min(float(accuracies.min()), 0.9), 1.0, 4)
    frame = Frame((0, 1), (y_ticks[0], 1.0), 40, 382, 24, 210)
    parts = _axes(frame, [0.0, 0.25, 0.5, 0.75, 1.0], y_ticks, "answered", "correct", percent=True)
    parts += [_path(frame, shares, accuracies, "line"), dot(frame.x(shares[-1]), frame.y(accuracies[-1]))]
    return svg(400, 250, f"Accuracy by the share answered: {accuracies[-1]:.1%} where all are.", parts)


def _thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, 2) points averaged in groups, so that at most ``MOST_POINTS`` are left."""
    if len(points) <= MOST_POINTS:
        return points
    return np.array([group.mean(axis=0) for group in np.array_split(points, MOST_POINTS)])


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) means over a centred window of about a tenth of the values, shorter at both ends."""
    reach = len(values) // 20
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])


def _axes(
    frame: Frame,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_name: str,
    y_name: str,
    percent: bool = False,
) -> list[Markup]:
    parts = []
    for tick in y_ticks:
        parts.append(line(frame.left, frame.y(tick), frame.right, frame.y(tick), "grid"))
        parts.append(text(frame.left - 6, frame.y(tick) + 4, _number(tick, percent), "end"))
    parts += horizontal_axis(frame, x_ticks, x_name, percent) if x_ticks else []
    return [*parts, Markup('<text class="name" x="2" y="{}">{}</text>').format(_n(frame.top - 12), y_name)]


def horizontal_axis(frame: Frame, ticks: Sequence[float], name: str, percent: bool = False) -> list[Markup]:
    """The horizontal axis of a frame, with its numbers and its name."""
    parts = [line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")]
    parts += [text(frame.x(tick), frame.bottom + 16, _number(tick, percent), "middle") for tick in ticks]
    middle = (frame.left + frame.right) / 2
    parts.append(
        Markup('<text class="name" text-anchor="middle" x="{}" y="{}">{}</text>').format(
            _n(middle), _n(frame.bottom + 33), name
        )
    )
    return parts


def svg(width: int, height: float, label: str, parts: Sequence[Markup]) -> Markup:
    """A whole drawing, with what it shows in words."""
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_n(width), _n(height), label)
    return head + Markup("").join(parts) + Markup("</svg>")


def _path(frame: Frame, xs: NDArray[np.float64], ys: NDArray[np.float64], css: str) -> Markup:
    points = " ".join(f"{_n(frame.x(x))},{_n(frame.y(y))}" for x, y in zip(xs, ys, strict=True))
    return Markup('<polyline class="{}" points="{}"/>').format(css, points)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight line of a drawing."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        css, _n(x1), _n(y1), _n(x2), _n(y2)
    )


def _rect(x: float, y: float, width: float, height: float, css: str) -> Markup:
    form = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
    return form.format(css, _n(x), _n(y), _n(width), _n(height))


def dot(x: float, y: float, css: str = "dot") -> Markup:
    """A point of a drawing."""
    return Markup('<circle class="{}" cx="{}" cy="{}" r="3.5"/>').format(css, _n(x), _n(y))


def text(x: float, y: float, words: str, anchor: str) -> Markup:
    """Words of a drawing."""
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(_n(x), _n(y), anchor, words)


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.0f}%" if percent else f"{value:,.6g}"


def _n(value: float) -> str:
    """A length to a tenth, without a needless ".0"."""
    return f"{value:.1f}".removesuffix(".0")
