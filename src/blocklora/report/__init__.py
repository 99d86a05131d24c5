"""From a run's metrics to RUN/metrics.json, RUN/report.html and tables; and what others have published."""

from blocklora.report.comparison import (
    ComparedPair,
    ComparedRun,
    Comparison,
    DisputedImage,
    compared_sentence,
    pair_verdict,
    run_words,
)
from blocklora.report.comparison_page import check_comparison_page, shown_images, write_comparison
from blocklora.report.confidence import alarm_sentence, measured_sentence, promise_sentence, sets_sentence
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
from blocklora.report.run_metrics import AddedClass, ConfusedPair, HowAdded, Mistake, PartFiles, RunMetrics
from blocklora.report.spreadsheets import (
    PredictionRow,
    read_predictions,
    write_confusion,
    write_predictions,
    written_name,
)
from blocklora.report.tables import OpenImage, confused_cells, confused_pairs, thumbnail
from blocklora.report.words import Score, Verdict, added_sentences, scores, verdict

__all__ = [
    "AddedClass",
    "ComparedPair",
    "ComparedRun",
    "Comparison",
    "ConfusedPair",
    "DisputedImage",
    "HowAdded",
    "Mistake",
    "OpenImage",
    "PartFiles",
    "PredictionRow",
    "PublishedTable",
    "Recipe",
    "RunMetrics",
    "Score",
    "Verdict",
    "added_sentences",
    "alarm_sentence",
    "check_comparison_page",
    "compared_sentence",
    "confused_cells",
    "confused_pairs",
    "json_text",
    "leak_note",
    "measured_sentence",
    "metrics_from_json",
    "metrics_json",
    "pair_verdict",
    "promise_sentence",
    "published_recipes",
    "published_table",
    "read_metrics",
    "read_predictions",
    "run_words",
    "scores",
    "sets_sentence",
    "shown_images",
    "thumbnail",
    "verdict",
    "warnings",
    "write_comparison",
    "write_confusion",
    "write_metrics",
    "write_predictions",
    "write_report",
    "written_name",
]
