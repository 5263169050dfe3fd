"""Layer-wise relevance: a rule for every operation of a forward pass, and the ledger of where relevance went."""

from pnpxai.relevance._bilinear import Bilinear
from pnpxai.relevance._call import Account, AttentionRule, Call
from pnpxai.relevance._composed import Composed
from pnpxai.relevance._elementwise import Pass
from pnpxai.relevance._moves import Move
from pnpxai.relevance._operations import MODULES, OPERATIONS, register_rule
from pnpxai.relevance._propagation import Propagation, Settings
from pnpxai.relevance._proportional import Proportional, Taylor
from pnpxai.relevance._refused import Refused
from pnpxai.relevance._rule import Rule, Step, StepRule
from pnpxai.relevance._stabilizer import Stabilizer
from pnpxai.relevance.ledger import Ledger

__all__ = [
    "MODULES",
    "OPERATIONS",
    "Account",
    "AttentionRule",
    "Bilinear",
    "Call",
    "Composed",
    "Ledger",
    "Move",
    "Pass",
    "Propagation",
    "Proportional",
    "Refused",
    "Rule",
    "Settings",
    "Stabilizer",
    "Step",
    "StepRule",
    "Taylor",
    "register_rule",
]
