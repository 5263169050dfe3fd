"""The one place that calls a user's model: checked, counted, in chunks."""

from pnpxai.forward._counting import ForwardCounter, count_forwards
from pnpxai.forward._request import Request, model_reference

__all__ = ["ForwardCounter", "Request", "count_forwards", "model_reference"]
