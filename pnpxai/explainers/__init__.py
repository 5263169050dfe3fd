"""The explainers; importing this module registers each of them in `EXPLAINERS`."""

from pnpxai.explainers._base import EXPLAINERS, Explainer
from pnpxai.explainers._together import attribute_together, shares_work
from pnpxai.explainers.attention_rollout import AttentionRollout
from pnpxai.explainers.deep_lift_shap import DeepLiftShap
from pnpxai.explainers.expected_gradients import ExpectedGradients
from pnpxai.explainers.extremal_perturbation import ExtremalPerturbation
from pnpxai.explainers.grad_cam import GradCam
from pnpxai.explainers.gradient import Gradient, GradientXInput
from pnpxai.explainers.guided_grad_cam import GuidedBackprop, GuidedGradCam
from pnpxai.explainers.integrated_gradients import IntegratedGradients
from pnpxai.explainers.kernel_shap import KernelShap
from pnpxai.explainers.lime import Lime
from pnpxai.explainers.lrp import LRPBase, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from pnpxai.explainers.mp import MP
from pnpxai.explainers.occlusion import Occlusion
from pnpxai.explainers.rank_ensemble import RankEnsemble, rank_average
from pnpxai.explainers.rap import RAP
from pnpxai.explainers.relax import RELAX, RelaxExplanation
from pnpxai.explainers.rise import RISE, RiseExplanation
from pnpxai.explainers.smooth_grad import SmoothGrad, VarGrad
from pnpxai.explainers.sobol_attribution import SobolAttribution
from pnpxai.explainers.transformer_attribution import TransformerAttribution

__all__ = [
    "AttentionRollout",
    "DeepLiftShap",
    "EXPLAINERS",
    "ExpectedGradients",
    "Explainer",
    "ExtremalPerturbation",
    "GradCam",
    "Gradient",
    "GradientXInput",
    "GuidedBackprop",
    "GuidedGradCam",
    "IntegratedGradients",
    "KernelShap",
    "LRPBase",
    "LRPEpsilonAlpha2Beta1",
    "LRPEpsilonGammaBox",
    "LRPEpsilonPlus",
    "LRPUniformEpsilon",
    "Lime",
    "MP",
    "Occlusion",
    "RAP",
    "RELAX",
    "RISE",
    "RankEnsemble",
    "RelaxExplanation",
    "RiseExplanation",
    "SmoothGrad",
    "SobolAttribution",
    "TransformerAttribution",
    "VarGrad",
    "attribute_together",
    "rank_average",
    "shares_work",
]
