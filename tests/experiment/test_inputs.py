from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import pnpxai
from pnpxai.errors import InputError, ParameterError
from pnpxai.explainers import RISE, Gradient, GradientXInput, SmoothGrad
from pnpxai.forward import Request, TokenIds
from pnpxai.metrics import AbPC, Complexity, Comprehensiveness, MuFidelity, Sensitivity
from pnpxai.modality import Image, Text
from pnpxai.postprocess import PostProcessor
from tests.harm import untouched
from tests.nets import batch, seeded

N, WORDS, LENGTH, SIZE = 5, 20, 6, 4


class Reader(nn.Module):
    """Words times their mask, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, SIZE), nn.Linear(SIZE, 3)
        self.deep = nn.Linear(SIZE, SIZE)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        found = self.words(input_ids)
        found = found if attention_mask is None else found * attention_mask[..., None]
        return self.head(torch.tanh(self.deep(found)).mean(1))


class SeesAndReads(nn.Module):
    """Answers a question about an image: the product of what both say."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.says = nn.Embedding(WORDS, SIZE), nn.Linear(SIZE, 3)
        self.sees = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 3))

    def of(self, image: Tensor, embedded: Tensor) -> Tensor:
        return self.sees(image) * torch.tanh(self.says(embedded).mean(1))

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        return self.of(image, self.words(question))


class ReadsAndSees(SeesAndReads):
    def forward(self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        found = self.words(input_ids)
        return self.of(pixel_values, found if attention_mask is None else found * attention_mask[..., None])


def ids() -> Tensor:
    return torch.randint(2, WORDS, (N, LENGTH), generator=torch.Generator().manual_seed(3))


def images() -> Tensor:
    return batch(N, 3, 8, 8)


def mask() -> Tensor:
    made = torch.ones(N, LENGTH, dtype=torch.long)
    made[1, -2:] = 0
    return made


class Rows(Dataset):
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.rows[i]


def tokenized() -> dict[str, Tensor]:
    return {"input_ids": ids(), "attention_mask": mask()}


def rows(**more: Any) -> list[dict[str, Any]]:
    return [
        {**{name: each[i] for name, each in tokenized().items()}, **{name: each[i] for name, each in more.items()}}
        for i in range(N)
    ]


def as_lists() -> list[dict[str, Any]]:
    return [{name: each.tolist() for name, each in row.items()} for row in rows()]


LABELS = torch.tensor([2, 0, 1, 1, 0])
WAYS: dict[str, Callable[[], Any]] = {
    "mapping": tokenized,
    "as tokenizers return it": lambda: UserDict(tokenized()),
    "of lists": lambda: {name: each.tolist() for name, each in tokenized().items()},
    "list of mappings": rows,
    "dataset of mappings": lambda: Rows(rows()),
    "loader of mappings": lambda: DataLoader(Rows(rows()), batch_size=2),
    "mappings of lists": as_lists,
    "mapping and label": lambda: [(row, int(label)) for row, label in zip(rows(), LABELS, strict=True)],
    "with labels": lambda: rows(labels=LABELS),
    "with a label": lambda: rows(label=LABELS.tolist(), text=["some words"] * N),
}


@pytest.mark.parametrize("way", WAYS)
def test_mappings_of_tokens(way: str) -> None:
    net = seeded(Reader())
    extractor = None
    if way == "with a label":  # the words themselves are not for the model

        def extractor(given: Any) -> Any:
            return {name: each for name, each in given.items() if name != "text" and name != "label"}

    exp = pnpxai.Experiment(net, WAYS[way](), explainers=[Gradient], batch_size=2, input_extractor=extractor)
    assert len(exp.samples) == N
    assert exp.modality == Text(channel_dim=1)
    assert torch.equal(exp.targets(), net(ids(), mask()).argmax(1))
    torch.testing.assert_close(exp.explain(0), Gradient(net).attribute(tokenized()))
    assert torch.equal(exp.inputs([3, 1])["input_ids"], ids()[[3, 1]])
    scores = exp.run(progress=False)
    assert (scores["failure"] == "").all()
    expected = AbPC(net).evaluate(tokenized(), exp.targets(), Gradient(net).attribute(tokenized()))
    assert scores.sort_values("data_id")["score"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    if "label" in way and "with" in way:
        assert torch.equal(torch.as_tensor(exp.labels()), LABELS)
        assert torch.equal(
            pnpxai.Experiment(net, WAYS[way](), target_labels=True, input_extractor=extractor).targets([0, 3]),
            LABELS[[0, 3]],
        )
    if way == "mapping and label":
        assert torch.equal(exp.labels(), LABELS)


def test_rows_of_several_lengths_are_refused() -> None:
    ragged = [{"input_ids": [2, 3, 4]}, {"input_ids": [5, 6]}]
    with pytest.raises(InputError, match=r"'input_ids' are of one shape; received shapes \(2,\), \(3,\)"):
        pnpxai.Experiment(seeded(Reader()), ragged).inputs()
    with pytest.raises(InputError, match="rows of one length"):
        pnpxai.Experiment(seeded(Reader()), {"input_ids": [[2, 3, 4], [5, 6]]}).inputs()


def test_text_classification_leaves_special_tokens_alone() -> None:
    net = seeded(Reader())
    given = tokenized()
    given["input_ids"][:, 0], given["input_ids"][:, -1] = 0, 1
    exp = pnpxai.AutoExplanationForTextClassification(net, given, special_ids=[0, 1])
    assert exp.modality == Text(channel_dim=1)
    assert [type(each).__name__ for each in exp.metrics] == ["MuFidelity", "AbPC", "Sensitivity", "Complexity"]
    maps = exp.explain("IntegratedGradients")
    assert (maps[:, :, [0, -1]] == 0).all()
    assert (maps[1, :, -2:] == 0).all()
    assert (maps[0, :, 1:-1].abs().sum(0) > 0).all()
    by_hand = SmoothGrad(net, TokenIds((0, 1)))
    torch.testing.assert_close(exp.explain("SmoothGrad"), by_hand.attribute(given, exp.targets()))
    results = exp.run([0, 1], postprocessor_ids=[0], progress=False)
    assert (results["failure"] == "").all()
    found = results.query("explainer == 'SmoothGrad' and metric == 'AbPC'").sort_values("data_id")["score"]
    some = {name: each[:2] for name, each in given.items()}
    metric = AbPC(net, forward_arg_extractor=TokenIds((0, 1)))
    expected = metric.evaluate(some, exp.targets([0, 1]), by_hand.attribute(some, exp.targets([0, 1])))
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_text_without_special_ids_is_that_of_an_experiment() -> None:
    net = seeded(Reader())
    alone = pnpxai.AutoExplanationForTextClassification(net, ids())
    assert torch.equal(alone.explain("Gradient"), Gradient(net).attribute(ids()))
    own = pnpxai.AutoExplanationForTextClassification(net, ids(), (3,), forward_arg_extractor=TokenIds((5,)))
    assert own.forward_arg_extractor == TokenIds((5,))


def both() -> list[tuple[Tensor, Tensor, int]]:
    return [(image, question, 1) for image, question in zip(images(), ids(), strict=True)]


def gradients(net: SeesAndReads, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the image and of the words ``(n, d, t)``, with autograd alone."""
    image, embedded = images().requires_grad_(), net.words(ids()).detach().requires_grad_()
    chosen = net.of(image, embedded).gather(1, targets[:, None]).sum()
    of_image, of_words = torch.autograd.grad(chosen, (image, embedded))
    return of_image, of_words.mT


def test_an_image_and_a_question_explained_in_turn() -> None:
    net = seeded(SeesAndReads())
    targets = net(images(), ids()).argmax(1)
    of_image, of_words = gradients(net, targets)
    with untouched(net):
        looking = pnpxai.AutoExplanationForVisualQuestionAnswering(net, both())
        reading = pnpxai.AutoExplanationForVisualQuestionAnswering(net, both(), explained="text", special_ids=(3,))
        assert torch.equal(looking.targets(), targets)
        assert torch.equal(reading.targets(), targets)
        assert looking.modality == Image()
        assert reading.modality == Text(channel_dim=1)
        torch.testing.assert_close(looking.explain("Gradient"), of_image)
        special = (ids() == 3)[:, None]
        assert special.any()
        torch.testing.assert_close(reading.explain("Gradient"), of_words.masked_fill(special, 0.0))
    assert {"Gradient", "SmoothGrad", "RISE"} <= {type(each).__name__ for each in looking.explainers}
    assert {"Gradient", "SmoothGrad", "RISE"} <= {type(each).__name__ for each in reading.explainers}
    assert torch.equal(looking.labels(), torch.ones(N, dtype=torch.long))


class Fixed(nn.Module):
    """The image part of such a model, its question as it is."""

    def __init__(self, net: SeesAndReads, words: Tensor) -> None:
        super().__init__()
        self.net, self.words = net, words

    def forward(self, image: Tensor) -> Tensor:
        return self.net.of(image, self.words.expand(len(image), *self.words.shape[1:]))


@pytest.mark.parametrize("metric", [AbPC, MuFidelity, Sensitivity, Complexity])
def test_scores_of_an_image_are_those_of_the_model_whose_question_is_fixed(metric: type) -> None:
    net = seeded(SeesAndReads())
    exp = pnpxai.AutoExplanationForVisualQuestionAnswering(net, both(), metrics=[metric], explainers=[GradientXInput])
    results = exp.run(postprocessor_ids=[0], progress=False)
    assert (results["failure"] == "").all()
    for i in range(N):
        alone = Fixed(net, net.words(ids()[i : i + 1]).detach())
        own = metric(alone, explainer=GradientXInput(alone)).evaluate(images()[i : i + 1], exp.targets([i]))
        assert results.set_index("data_id")["score"][i] == pytest.approx(own.item(), abs=1e-4)


def test_mappings_by_the_names_of_a_processor() -> None:
    net = seeded(ReadsAndSees())
    given = {"input_ids": ids(), "pixel_values": images(), "attention_mask": mask()}
    targets = net(**given).argmax(1)
    image, embedded = images().requires_grad_(), net.words(ids()).detach().requires_grad_()
    chosen = net.of(image, embedded * mask()[..., None]).gather(1, targets[:, None]).sum()
    of_image, of_words = torch.autograd.grad(chosen, (image, embedded))
    for data in (given, [{name: each[i] for name, each in given.items()} for i in range(N)]):
        looking = pnpxai.AutoExplanationForVisualQuestionAnswering(net, data)
        reading = pnpxai.AutoExplanationForVisualQuestionAnswering(net, data, "text")
        torch.testing.assert_close(looking.explain("Gradient"), of_image)
        torch.testing.assert_close(reading.explain("Gradient"), of_words.mT)
        assert (reading.explain("RISE")[1, :, -2:] == 0).all()  # padding
        assert (reading.run([0], [0], progress=False)["failure"] == "").all()


def test_a_tuple_in_the_order_of_the_model() -> None:
    net = seeded(ReadsAndSees())
    data = [(question, image) for image, question in zip(images(), ids(), strict=True)]
    targets = net(ids(), images()).argmax(1)
    of_image, of_words = gradients(net, targets)
    for explained, expected in (("image", of_image), ("text", of_words)):
        exp = pnpxai.AutoExplanationForVisualQuestionAnswering(net, data, explained)
        torch.testing.assert_close(exp.explain("Gradient"), expected)
        result = exp.optimize(explainer_id="RISE", metric_id="AbPC", n_trials=2, progress=False)
        assert result.explain(exp.inputs(), targets).shape == (ids() if explained == "text" else images()[:, 0]).shape


def test_what_cannot_be_told_apart() -> None:
    net = seeded(SeesAndReads())
    with pytest.raises(ParameterError, match="'image' or 'text'"):
        pnpxai.AutoExplanationForVisualQuestionAnswering(net, both(), explained="sound")
    without = pnpxai.AutoExplanationForVisualQuestionAnswering(net, [(each, each) for each in images()], "text")
    with pytest.raises(InputError, match=r"one text \(n, t\), whole numbers; received none among image, question"):
        without.explain(0)
    alone = pnpxai.AutoExplanationForVisualQuestionAnswering(net, images())
    with pytest.raises(InputError, match="arguments image, question"):
        alone.explain(0)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.left(x) * self.right(y)


def two(**options: Any) -> pnpxai.Experiment:
    data = torch.utils.data.TensorDataset(batch(2, 6), batch(2, 6, seed=3))
    given = {"explainers": [Gradient, SmoothGrad], "metrics": [AbPC, Complexity], "input_extractor": tuple, **options}
    return pnpxai.Experiment(seeded(TwoInputs()), data, modality="tabular", batch_size=1, **given)


def test_maps_of_several_inputs_are_not_taken_for_those_of_several_samples() -> None:
    made = two()
    net, given = made.model, (batch(2, 6), batch(2, 6, seed=3))
    targets = net(*given).argmax(1)
    first, second = made.explain(0)
    torch.testing.assert_close(first, net.left.weight[targets] * net.right(given[1]).gather(1, targets[:, None]))
    torch.testing.assert_close(second, net.right.weight[targets] * net.left(given[0]).gather(1, targets[:, None]))
    torch.testing.assert_close(made.explain(1, [1])[1], second[1:], rtol=0.2, atol=0.2)


class Joined(nn.Module):
    """The same of both inputs in a row."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, both: Tensor) -> Tensor:
        return self.net(both[:, :6], both[:, 6:])


@pytest.mark.parametrize("normalization", ["identity", "min_max"])
def test_maps_of_several_inputs_are_judged_in_one_order(normalization: str) -> None:
    postprocessors = [PostProcessor(normalization_fn=normalization, channel_dim=None)]
    made = two(metrics=[AbPC, Comprehensiveness, Complexity, MuFidelity], postprocessors=postprocessors)
    results, net = made.run(progress=False), Joined(made.model)
    joint, targets = torch.cat(made.inputs(), 1), made.targets()
    for name, explainer in (("Gradient", Gradient(net)), ("SmoothGrad", None)):
        maps = explainer.attribute(joint, targets) if explainer else torch.cat(made.explain(name), 1)
        for metric in (AbPC, Comprehensiveness, Complexity, MuFidelity):
            rows = results[(results["explainer"] == name) & (results["metric"] == metric.__name__)]
            expected = metric(net).evaluate(joint, targets, postprocessors[0](maps))
            assert rows.sort_values("data_id")["score"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    batched = made.run_batch("Gradient")
    assert batched["postprocessed"].shape == (2, 12)


def test_one_of_several_inputs_is_chosen_by_extractors() -> None:
    def chosen(i: int) -> pnpxai.Experiment:
        names = ("x", "y")
        return two(
            forward_arg_extractor=lambda inputs: {names[i]: inputs[i]},
            additional_forward_arg_extractor=lambda inputs: {names[1 - i]: inputs[1 - i]},
        )

    pairs = two().explain(0)
    for i in range(2):
        exp = chosen(i)
        torch.testing.assert_close(exp.explain(0), pairs[i])
        results = exp.run(progress=False)
        assert (results["failure"] == "").all()
        entropy = Complexity(exp.model).evaluate_request(
            Request.build(
                exp.model, exp.inputs(), None, exp.forward_arg_extractor, exp.additional_forward_arg_extractor
            ),
            PostProcessor(channel_dim=None)(pairs[i]),
            {},
        )
        found = results.query("explainer == 'Gradient' and metric == 'Complexity'").sort_values("data_id")["score"]
        assert found.tolist() == pytest.approx(entropy.tolist(), abs=1e-5)


def test_several_maps_are_kept_on_disk(tmp_path: Any) -> None:
    first = two(cache_dir=tmp_path).explain(0)
    again = two(cache_dir=tmp_path).explain(0)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert all(map(torch.equal, first, again))


def test_rise_of_an_image_beside_its_question() -> None:
    net = seeded(SeesAndReads())
    exp = pnpxai.AutoExplanationForVisualQuestionAnswering(net, both(), explainers=["RISE"])
    targets = exp.targets()
    for i in range(2):
        alone = Fixed(net, net.words(ids()[i : i + 1]).detach())
        expected = RISE(alone).attribute(images()[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(exp.explain(0, [i]), expected, rtol=1e-4, atol=1e-5)
