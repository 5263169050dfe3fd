"""The one place that calls a user's model: checked, counted, in chunks."""

from pnpxai.forward._counting import ForwardCounter, count_forwards
from pnpxai.forward._parts import Part, in_order, in_place, parts_of
from pnpxai.forward._request import Request
from pnpxai.forward._tokens import Lookup, TokenIds, Tokens

__all__ = [
    "ForwardCounter",
    "Lookup",
    "Part",
    "Request",
    "TokenIds",
    "Tokens",
    "count_forwards",
    "in_order",
    "in_place",
    "parts_of",
]
