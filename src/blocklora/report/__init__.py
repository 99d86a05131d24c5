"""From RUN/metrics.json to RUN/report.html: one self-contained page; and what others have published."""

from blocklora.report.page import write_report
from blocklora.report.published import PublishedTable, Recipe, published_recipes, published_table

__all__ = ["PublishedTable", "Recipe", "published_recipes", "published_table", "write_report"]
