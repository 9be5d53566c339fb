"""One page on a compiled model: what it needs, where the time goes, what it hears, how exact it is."""

from microddsp.reporting.report import Report, report

__all__ = ["Report", "report"]
