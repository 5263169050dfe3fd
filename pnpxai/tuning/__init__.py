"""Tuning: one race over explainers, their parameters and post-processing, judged on unseen samples."""

from pnpxai.tuning._controls import CONTROLS
from pnpxai.tuning._join import join
from pnpxai.tuning._objective import Objective
from pnpxai.tuning._opinion import Opinion
from pnpxai.tuning._pareto import Choice, Pareto
from pnpxai.tuning._result import Configuration, Entry, TuneResult
from pnpxai.tuning._statistics import Gain
from pnpxai.tuning._tune import tune

__all__ = [
    "CONTROLS",
    "Choice",
    "Configuration",
    "Entry",
    "Gain",
    "Objective",
    "Opinion",
    "Pareto",
    "TuneResult",
    "join",
    "tune",
]
