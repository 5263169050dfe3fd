"""Objects that are their constructor's arguments, which of them may be tuned, and what a search makes of that."""

from pnpxai.tunable._searching import Candidates, presets, suggest, trial_params
from pnpxai.tunable._tunable import Role, Space, Tunable, choices, constructor_parameters
from pnpxai.tunable._values import to_json

__all__ = [
    "Candidates",
    "Role",
    "Space",
    "Tunable",
    "choices",
    "constructor_parameters",
    "presets",
    "suggest",
    "to_json",
    "trial_params",
]
