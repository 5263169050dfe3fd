"""Texts in reports: words in colours that can be read, values to point at, and nothing that a text could break."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pnpxai
from pnpxai.metrics import AbPC
from pnpxai.modality import Text
from pnpxai.report._canvas import Canvas
from pnpxai.report._colour import Scale, colours, scale_of
from pnpxai.report._words import Reading, folded, luminance, style
from tests.nets import seeded
from tests.report.page import Page
from tests.test_tokens import N_WORDS, Bag, padded
from tests.test_words import VOCABULARY


def hexed(text: str) -> np.ndarray:
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_luminance_is_that_of_the_standard() -> None:
    assert contrast(hexed("#000000"), hexed("#ffffff")) == pytest.approx(21)
    assert contrast(hexed("#777777"), hexed("#ffffff")) == pytest.approx(4.48, abs=0.005)  # as published for #777
    assert contrast(hexed("#0000ff"), hexed("#ffffff")) == pytest.approx(8.59, abs=0.005)
    assert contrast(hexed("#767676"), hexed("#ffffff")) > 4.5  # the grey of tokens that are never changed


@given(st.floats(-1, 1), st.booleans())
def test_every_word_can_be_read(value: float, signed: bool) -> None:
    (ground,) = colours(np.array([value]), Scale(-1.0 if signed else 0.0, 1.0, signed, 0.0))
    painted, letters = re.fullmatch(r"background: (#\w{6}); color: (#\w{6})", style(ground)).groups()  # type: ignore[union-attr]
    assert contrast(hexed(painted), hexed(letters)) >= 4.5
    assert abs(hexed(painted) - ground).max() <= 0.5 / 255 + 1e-9


def reading(tokenizer: object = VOCABULARY) -> Reading:
    return Reading(
        tuple(Text(tokenizer=tokenizer).pieces(torch.tensor([0, 3, 14, 5, 1, 1, 1, 1]))),  # type: ignore[arg-type]
        (True, False, False, False, True, True, True, True),
        True,
    )


def test_red_is_for_the_target_blue_against_it_and_grey_neither() -> None:
    values = np.array([9.0, 1.0, -0.5, 0.0, -9.0, 0.0, 0.0, 0.0])
    canvas = Canvas.build(torch.zeros(4, 8), Text(1), None, reading())
    tile = canvas.tile("RISE", "tuned", torch.tensor(values), 0.5)
    assert tile.scale == "±1"  # not 9: that is on tokens that are never changed
    assert [each.text for each in tile.words] == ["w0", "w3", "p14", "w5", "w1 × 4"]
    assert [each.spaced for each in tile.words] == [True, True, False, True, True]
    assert [each.title for each in tile.words] == ["", "+1", "−0.5", "0", ""]
    assert [each.fixed for each in tile.words] == [True, False, False, False, True]
    grounds = [hexed(each.style[12:19]) for each in tile.words[1:4]]
    assert np.allclose(grounds[0], hexed("#c51d28"), atol=1 / 255)
    assert np.allclose(grounds[1], (1 + hexed("#1a5aa6")) / 2, atol=1 / 255)
    assert np.allclose(grounds[2], 1)
    assert [each.style for each in (tile.words[0], tile.words[-1])] == ["", ""]
    assert [each.style for each in canvas.input().words] == [""] * 5
    assert canvas.input().src == ""


def test_only_what_is_never_changed_is_folded() -> None:
    words = reading().words(np.zeros(8), scale_of(np.zeros(8)))
    assert len(words) == 5
    free = Reading(reading().pieces, (False,) * 8, True).words()
    assert [each.text for each in free[4:]] == ["w1"] * 4
    assert folded([]) == ()


def spans(page: Path) -> list[tuple[str, str]]:
    """Attributes and text of every word."""
    found = re.findall(r"<p class=\"text\">(.*?)</p>", page.read_text(encoding="utf-8"), re.S)
    return [each for text in found for each in re.findall(r"<span(.*?)>(.*?)</span>", text, re.S)]


def test_the_curves_of_a_padded_text_have_the_area_that_is_its_score(tmp_path: Path) -> None:
    net = seeded(Bag())
    result = pnpxai.tune(net, padded(), explainers=["GradientXInput"], n_trials=1, progress=False, holdout=2)
    page = Page(result.report(tmp_path / "r.html"))
    areas = re.findall(r"area between the curves (\S+),", page.text)
    scores = AbPC(net).evaluate(padded(), result.targets, result.explain(padded(), result.targets)).tolist()
    assert areas == [f"{each:.3f}".replace("-", "−") for each in scores]


NASTY = ["<script>alert(1)</script>", '" onmouseover="x', "&amp;", "{{ 7 }}"]


def test_both_reports_show_words_and_escape_them(tmp_path: Path) -> None:
    net, tokenizer = seeded(Bag()), [*NASTY, *VOCABULARY[4:]]
    inputs = {name: each.repeat(3, 1) for name, each in padded().items()}
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][:, 3] = torch.arange(12) % 4
    text = Text(tokenizer=tokenizer)
    result = pnpxai.tune(
        net, inputs, modality=text, explainers=["GradientXInput", "Occlusion"], n_trials=3, progress=False
    )
    experiment = pnpxai.AutoExplanationForTextClassification(
        net, inputs, tokenizer=tokenizer, explainers=["Occlusion"], metrics=["AbPC"]
    )
    n_explained = len({result.winner.name, *(each.name for each in result.entries)})
    for written, n_maps in (
        (result.report(tmp_path / "tuned.html"), n_explained + 2),
        (experiment.report(tmp_path / "run.html"), 1),
    ):
        page = Page(written)  # every tag is closed, and nothing could fetch or run
        assert "script" not in page.tags
        assert not page.addresses
        for each in NASTY:
            assert each in page.text
        found = spans(written)
        texts = [html.unescape(text) for _, text in found]
        assert texts.count(NASTY[0]) == 3 * (1 + n_maps)
        shown = int(inputs["attention_mask"].sum())
        titles = [each for attributes, _ in found for each in re.findall(r'title="(.*?)"', attributes)]
        assert len(titles) == shown * n_maps
        assert all(re.fullmatch(r"0|[+−]\d.*", each) for each in titles)


def test_ids_are_shown_where_words_are_not_known(tmp_path: Path) -> None:
    ids = padded()["input_ids"]
    assert int(ids.max()) < N_WORDS
    experiment = pnpxai.AutoExplanationForTextClassification(
        seeded(Bag()), padded(), explainers=["GradientXInput"], metrics=["AbPC"], postprocessors=None
    )
    written = experiment.report(tmp_path / "run.html")
    free = padded()["attention_mask"] == 1
    found = [text for attributes, text in spans(written) if "fixed" not in attributes]
    first = [str(each) for each in ids[0][free[0]].tolist()]
    assert found[: len(first)] == first
    assert "a tokenizer on the modality" in Page(written).text
