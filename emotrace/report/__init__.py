"""Figures and the report page."""

from emotrace.report.page import write_report

__all__ = ["write_report"]
