"""What a method tried that chooses among several: rows of a table, and a plot of their log losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from blocklora.core.candidates import Candidate
from blocklora.report.figures import Frame, dot, horizontal_axis, line, nice_ticks, svg, text
from blocklora.report.words import duration, percent

__all__ = ["CandidateRow", "candidate_plot", "candidate_rows", "settings_words"]

_ROW = 22  # height of a row of the plot
_WORST = 2.5  # times the lowest log loss: what is worse is drawn at the edge


@dataclass(frozen=True)
class CandidateRow:
    """A candidate in words: its name, settings, scores with standard errors, time, whether it was kept, and why."""

    name: str
    settings: str
    log_loss: str
    accuracy: str
    n_images: int
    seconds: str
    kept: bool
    why: str


def candidate_rows(candidates: Sequence[Candidate]) -> list[CandidateRow]:
    """Return the rows: what was kept first, then by log loss, then what was not tried."""
    ordered = sorted(candidates, key=lambda one: (not one.kept, one.log_loss is None, one.log_loss or 0.0))
    return [
        CandidateRow(
            one.name,
            settings_words(one),
            _plus_minus(one.log_loss, one.log_loss_error),
            "–"
            if one.accuracy is None
            else f"{percent(one.accuracy)} ± {100 * (one.accuracy_error or 0):.1f}",
            one.n_images,
            duration(one.seconds) if one.seconds else "–",
            one.kept,
            one.why,
        )
        for one in ordered
    ]


def settings_words(candidate: Candidate) -> str:
    """Return the settings of a candidate in a few words, such as "lr 0.004, both towers, all layers, 120 steps"."""
    words = {"lr": "lr {:g}", "towers": "{} towers", "layers": "{} layers", "iterations": "{:,} steps"}
    given = candidate.settings
    return ", ".join(form.format(given[name]) for name, form in words.items() if name in given)


def candidate_plot(candidates: Sequence[Candidate]) -> Markup | None:
    """Draw the log loss of each candidate with one standard error to either side; those that were kept are filled.

    Returns:
        The drawing, the lowest log loss on top; None where fewer than two were judged.
    """
    judged = sorted(
        (one for one in candidates if one.log_loss is not None), key=lambda one: one.log_loss or 0
    )
    if len(judged) < 2:
        return None
    losses = [one.log_loss or 0.0 for one in judged]
    low = max(0.0, min(loss - (one.log_loss_error or 0) for loss, one in zip(losses, judged, strict=True)))
    ticks = nice_ticks(low, max(low + 0.1, min(max(losses), _WORST * losses[0])), 4)
    frame = Frame((ticks[0], ticks[-1]), (0, 1), 130, 470, 8, 8 + _ROW * len(judged))
    parts = []
    for place, (one, loss) in enumerate(zip(judged, losses, strict=True)):
        y = 8 + _ROW * (place + 0.5)
        error = one.log_loss_error or 0.0
        parts.append(text(122, y + 4, _short(one), "end"))
        ends = [min(max(value, ticks[0]), ticks[-1]) for value in (loss - error, loss + error)]
        parts.append(line(frame.x(ends[0]), y, frame.x(ends[1]), y, "whisker"))
        parts.append(dot(frame.x(min(loss, ticks[-1])), y, "dot" if one.kept else "dot other"))
    parts += horizontal_axis(frame, ticks, "log loss on held-out images, ± one standard error")
    return svg(
        480, frame.bottom + 42, "The log loss of each candidate on images it was fitted without.", parts
    )


def _short(one: Candidate) -> str:
    lr = one.settings.get("lr")
    return one.name if lr is None else f"{one.name} {lr:g}"


def _plus_minus(value: float | None, error: float | None) -> str:
    return "–" if value is None else f"{value:.3f} ± {error or 0:.3f}"
