"""One page on a compiled model: what it needs, where time goes, what it hears, how exact it is."""

from microddsp.reporting.document import Report, report

__all__ = ["Report", "report"]
