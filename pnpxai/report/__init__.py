"""One self-contained page about a tuning result."""

from pnpxai.report._write import write_report

__all__ = ["write_report"]
