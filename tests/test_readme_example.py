"""The README example of PnPXAI 0.1, with its class names and our import paths, on a pretrained network."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pnpxai import AutoExplanationForImageClassification, Experiment
from pnpxai.explainers import GradCam, LRPEpsilonPlus, SmoothGrad
from pnpxai.metrics import MuFidelity
from pnpxai.modality import ImageModality
from pnpxai.photographs import cropped, efficientnet_lite0, photographs, standardized

pytestmark = pytest.mark.pretrained


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return efficientnet_lite0()


@pytest.fixture(scope="module")
def loader() -> DataLoader:
    chosen = photographs()[:4]
    labels = torch.tensor([each.classes[0] for each in chosen])
    return DataLoader(TensorDataset(standardized([cropped(each.open()) for each in chosen]), labels), batch_size=2)


def input_extractor(batch):
    return batch[0]


def label_extractor(batch):
    return batch[-1]


def target_extractor(outputs):
    return outputs.argmax(-1)


def test_automatic_choice(model: torch.nn.Module, loader: DataLoader) -> None:
    experiment = AutoExplanationForImageClassification(
        model,
        loader,
        input_extractor=input_extractor,
        label_extractor=label_extractor,
        target_extractor=target_extractor,
        target_labels=False,
    )
    chosen = next(i for i, each in enumerate(experiment.explainers) if type(each) is SmoothGrad)
    optimized = experiment.optimize(
        data_ids=range(4),
        explainer_id=chosen,
        metric_id=1,
        direction="maximize",
        sampler="tpe",
        n_trials=5,
        seed=42,
        progress=False,
    )
    assert optimized.explainer.model is model
    assert type(optimized.explainer) is SmoothGrad
    assert type(optimized.metric).__name__ == "AbPC"
    assert len(optimized.study.trials) == 5
    maps = optimized.postprocessor(optimized.explainer.attribute(experiment.inputs(), experiment.targets()))
    assert maps.shape == (4, 224, 224)


def test_manual_choice(model: torch.nn.Module, loader: DataLoader) -> None:
    def experiment(explainer):
        return Experiment(
            model,
            loader,
            ImageModality(),
            explainers=[explainer],
            metrics=[MuFidelity(model, explainer, n_perturbations=20)],
            input_extractor=input_extractor,
            label_extractor=label_extractor,
            target_extractor=target_extractor,
        )

    result = experiment(GradCam(model)).run_batch(explainer_id=0, postprocessor_id=0, metric_id=0, data_ids=[0, 1])
    assert result["evaluation"].shape == (2,)
    assert result["labels"].tolist() == [281, 504]
    relevance = experiment(LRPEpsilonPlus(model)).run_batch(data_ids=[0])
    assert relevance["explanation"].shape == (1, 3, 224, 224)
    assert relevance["explanation"].abs().sum() > 0
