"""From run folders to figures and pages."""

from tightrein.lab.report import figure, write_report

__all__ = ["figure", "write_report"]
