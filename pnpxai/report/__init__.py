"""One self-contained page about a tuning result, or about a run of an experiment."""

from pnpxai.report._run import write_run_report
from pnpxai.report._write import write_report

__all__ = ["write_report", "write_run_report"]
