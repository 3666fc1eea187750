"""One HTML page of what a bundle makes of sets of images: it opens from disk and asks no network for anything."""

from lit_od.evaluation.report.page import report

__all__ = ["report"]
