"""One HTML page that shows a bundle's results on sets of images, offline."""

from lit_od.evaluation.report.page import report

__all__ = ["report"]
