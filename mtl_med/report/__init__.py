"""The report: what a person looks at before trusting a prediction. HTML that needs no network and no other file."""

from mtl_med.report.build import Report, build_report

__all__ = ["Report", "build_report"]
