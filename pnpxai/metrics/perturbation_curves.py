"""Faithfulness by removing features in the order of their relevance: MoRF, LeRF, AbPC, AOPC, Deletion, Insertion."""

from __future__ import annotations

from torch import Tensor

from pnpxai.baselines import Baseline
from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.explainers._base import Explainer
from pnpxai.metrics._curve_metric import CurveMetric
from pnpxai.metrics._curves import Curves
from pnpxai.outputs import Score


class MoRF(CurveMetric):
    """Area under the score while features are removed, most relevant first (after Samek et al., 2017).

    ``∫ f(x with the first q of features removed) dq`` over fractions q from 0 to 1, by the trapezoidal rule. A
    faithful map makes it small.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> MoRF(model).evaluate(torch.ones(1, 2), attributions=torch.tensor([[3.0, 1.0]])).tolist()
        [1.5]
    """

    HIGHER_IS_BETTER = False

    def read(self, measured: Curves) -> Tensor:
        """Area under the curve, most relevant first."""
        return measured.morf_area


class LeRF(CurveMetric):
    """Area under the score while features are removed, least relevant first; a faithful map makes it large.

    As `MoRF` in the opposite order, with the map's sign kept: evidence against the target goes first.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> LeRF(model).evaluate(torch.ones(1, 2), attributions=torch.tensor([[3.0, 1.0]])).tolist()
        [2.5]
    """

    HIGHER_IS_BETTER = True

    def read(self, measured: Curves) -> Tensor:
        """Area under the curve, least relevant first."""
        return measured.lerf_area


class AbPC(CurveMetric):
    """Area between the perturbation curves, `LeRF` minus `MoRF` (Šimić et al., 2022): 0 for an arbitrary order.

    Equals the insertion area minus the deletion area with the same baseline.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> AbPC(model).evaluate(torch.ones(1, 2), attributions=torch.tensor([[3.0, 1.0]])).tolist()
        [1.0]
    """

    HIGHER_IS_BETTER = True

    def read(self, measured: Curves) -> Tensor:
        """The area between the curves."""
        return measured.lerf_area - measured.morf_area


class AOPC(CurveMetric):
    """Area over the curve with the most relevant features removed first (Samek et al., 2017, eq. 12).

    ``1/(L + 1) Σ_{k=0..L} f(x) - f(x with the first k shares of features removed)``, with L equal shares of all
    features (``n_steps``) and the mean over samples left out. A faithful map makes it large. `MoRF` read upside down,
    with sums in place of the trapezoidal rule and the model's own score as the ceiling.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> AOPC(model).evaluate(torch.ones(1, 2), attributions=torch.tensor([[3.0, 1.0]])).tolist()
        [2.3333332538604736]
    """

    HIGHER_IS_BETTER = True

    def read(self, measured: Curves) -> Tensor:
        """The mean fall of the score over all points, the input's own included."""
        return (measured.morf[:, :1] - measured.morf).mean(1)


class Deletion(CurveMetric):
    """Area under the deletion curve (Petsiuk et al., 2018): `MoRF` under its other name.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> Deletion(model).evaluate(torch.ones(1, 2), attributions=torch.tensor([[1.0, 3.0]])).tolist()
        [2.5]
    """

    HIGHER_IS_BETTER = False

    def read(self, measured: Curves) -> Tensor:
        """Area under the curve, most relevant deleted first."""
        return measured.morf_area


class Insertion(CurveMetric):
    """Area under the score while features are inserted into the baseline, most relevant first (Petsiuk et al., 2018).

    Inserting the most relevant k features leaves the least relevant ones removed: the curve is that of `LeRF` read
    backwards, and the area is the same. The default baseline is blurred, since edges inserted into a flat image are
    evidence of their own.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> metric = Insertion(model, baseline_fn="zeros")
        >>> metric.evaluate(torch.ones(1, 2), attributions=torch.tensor([[3.0, 1.0]])).tolist()
        [2.5]
    """

    HIGHER_IS_BETTER = True

    def __init__(
        self,
        model: Model,
        explainer: Explainer | None = None,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        channel_dim: int | None = 1,
        baseline_fn: Baseline = "blur",
        n_steps: int = 10,
        score: Score = "probability",
        seed: int = 0,
    ) -> None:
        super().__init__(
            model,
            explainer,
            forward_arg_extractor,
            additional_forward_arg_extractor,
            channel_dim,
            baseline_fn,
            n_steps,
            score,
            seed,
        )

    def read(self, measured: Curves) -> Tensor:
        """Area under the insertion curve."""
        return measured.lerf_area
