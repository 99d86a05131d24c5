"""From RUN/metrics.json to RUN/report.html: one self-contained page."""

from blocklora.report.page import write_report

__all__ = ["write_report"]
