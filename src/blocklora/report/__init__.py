"""From a run's metrics to RUN/metrics.json, RUN/report.html and tables; and what others have published."""

from blocklora.report.metrics_file import (
    json_text,
    metrics_from_json,
    metrics_json,
    read_metrics,
    write_metrics,
)
from blocklora.report.notes import leak_note, warnings
from blocklora.report.page import write_report
from blocklora.report.published import PublishedTable, Recipe, published_recipes, published_table
from blocklora.report.run_metrics import Mistake, PartFiles, RunMetrics
from blocklora.report.spreadsheets import write_confusion, write_predictions
from blocklora.report.words import Score, Verdict, scores, verdict

__all__ = [
    "Mistake",
    "PartFiles",
    "PublishedTable",
    "Recipe",
    "RunMetrics",
    "Score",
    "Verdict",
    "json_text",
    "leak_note",
    "metrics_from_json",
    "metrics_json",
    "published_recipes",
    "published_table",
    "read_metrics",
    "scores",
    "verdict",
    "warnings",
    "write_confusion",
    "write_metrics",
    "write_predictions",
    "write_report",
]
