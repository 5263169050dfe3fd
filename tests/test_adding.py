"""An explainer is added by its file, a line in its package's front and its test; nothing else names it."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

import pnpxai
from pnpxai.cli import app
from pnpxai.explainers import EXPLAINERS, Explainer
from tests.nets import MLP, batch, seeded
from tests.report.page import Page

ROOT = Path(__file__).parents[1]
PACKAGE = Path(pnpxai.__file__).parent

FILES = {
    "leaveout/__init__.py": '''
"""A package outside the repository."""

from leaveout.leave_one_out import LeaveOneOut

__all__ = ["LeaveOneOut"]
''',
    "leaveout/leave_one_out.py": '''
"""Leave one out: what the score loses when a feature takes another value."""

import torch
from optuna.distributions import FloatDistribution

from pnpxai.explainers import Explainer
from pnpxai.limits import Within
from pnpxai.modules import Linear
from pnpxai.outputs import select


class LeaveOneOut(Explainer):
    """What the score loses when one feature takes another value.

    Args:
        value: what each feature is set to in turn.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
        >>> LeaveOneOut(model).attribute(torch.tensor([[3.0, 4.0]])).tolist()
        [[6.0, -4.0]]
    """

    SUPPORTED_MODULES = (Linear,)
    OUTPUTS_ONLY = True
    INPUT_NDIMS = (2,)
    TUNABLES = {"value": FloatDistribution(-2.0, 2.0)}
    LIMITS = {"value": Within()}

    def __init__(self, model, forward_arg_extractor=None, additional_forward_arg_extractor=None, value=0.0):
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.value = value

    def explain_request(self, request):
        """The loss by each feature."""
        x = request.input
        n, d = x.shape
        scores = torch.empty(n * d, dtype=x.dtype, device=x.device)

        def build(start, stop):
            rows = torch.arange(start, stop, device=x.device)
            left = torch.nn.functional.one_hot(rows % d, d).bool()
            return [x[rows // d].masked_fill(left, self.value)], rows // d

        def consume(start, stop, outputs):
            index = torch.arange(start, stop, device=x.device) // d
            scores[start:stop] = select(outputs, request.targets_for(index), "probability")

        request.stream(n * d, build, consume)
        return select(request.outputs, request.targets, "probability")[:, None] - scores.reshape(n, d)
''',
    "test_leave_one_out.py": """
import torch
from leaveout import LeaveOneOut


def test_a_linear_model_loses_weight_times_distance():
    model = torch.nn.Linear(3, 1)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(LeaveOneOut(model, value=0.5).attribute(x), model.weight.data * (x - 0.5))
""",
}


@pytest.fixture
def leaveout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package, written and imported; the repository is not touched."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text.lstrip())
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("leaveout")
    for name in [each for each in sys.modules if each.partition(".")[0] == "leaveout"]:
        del sys.modules[name]


def test_it_is_recommended_tuned_kept_and_reported(leaveout: ModuleType, tmp_path: Path) -> None:
    assert EXPLAINERS["LeaveOneOut"] is leaveout.LeaveOneOut
    model, inputs = seeded(MLP()), batch(12, 6)
    recommendation = pnpxai.recommend(model, inputs)
    assert "LeaveOneOut" in {type(each).__name__ for each in recommendation.explainers}
    assert recommendation.dry_runs["LeaveOneOut"].n_forwards == 6 + 1
    convolutional = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
    assert "LeaveOneOut" in pnpxai.recommend(convolutional, batch(2, 3, 8, 8), dry_run=False).rejected

    result = pnpxai.tune(model, inputs, explainers=["Gradient", "LeaveOneOut"], n_trials=8, holdout=6, progress=False)
    (own,) = [each for each in result.entries if each.name == "LeaveOneOut"]
    tried = {each.params["LeaveOneOut.value"] for each in result.study.trials if "LeaveOneOut.value" in each.params}  # type: ignore[union-attr]
    assert own.n_trials == len(tried) > 1
    again = pnpxai.TuneResult.load(result.save(tmp_path / "kept"), model)
    assert isinstance(next(each for each in again.entries if each.name == "LeaveOneOut").tuned.explainer, Explainer)
    page = Page(again.report(tmp_path / "report.html"))
    assert any(row[0] == "LeaveOneOut" for table in page.tables for row in table)

    experiment = pnpxai.Experiment(model, inputs, explainers=["Gradient", "LeaveOneOut"])
    assert "LeaveOneOut" in set(experiment.leaderboard["explainer"])
    assert "LeaveOneOut" in CliRunner().invoke(app, ["explainers"]).output


def test_it_passes_the_contract(leaveout: ModuleType, tmp_path: Path) -> None:
    contract, own = ROOT / "tests" / "explainers" / "test_contract.py", tmp_path
    found = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "leaveout", "-p", "no:cacheprovider", "--doctest-modules"]
    done = subprocess.run(
        [
            *command,
            f"--rootdir={ROOT}",
            f"--config-file={ROOT / 'pyproject.toml'}",
            "-k",
            "LeaveOneOut or leave_one_out",
        ]
        + [str(contract), str(own)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **found},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    passed = re.findall(r"(\S+::\S+) PASSED", done.stdout)
    assert sum("test_contract.py" in each for each in passed) >= 25
    assert sum("test_contract.py" not in each for each in passed) == 2  # its own test and its example


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """Identifiers and strings of a file's code; sentences that mention an explainer are no lists of them."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if " " not in node.value else set()
        elif isinstance(node, ast.Name | ast.alias):
            found.add(node.id if isinstance(node, ast.Name) else node.name)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return frozenset(found)


def places(name: str) -> list[str]:
    """The files that have to know an explainer: those of the package, and those that tests of everything share."""
    shared = [ROOT / "tests" / each for each in ("nets.py", "registry.py", "conftest.py", "harm.py")]
    files = [*PACKAGE.rglob("*.py"), *shared, ROOT / "tests" / "explainers" / "test_contract.py"]
    return sorted(str(each.relative_to(ROOT)) for each in files if name in names_in(each))


OWN = sorted(name for name, each in EXPLAINERS.items() if each.__module__.startswith("pnpxai."))
EXAMPLES = {
    "Gradient": ["tests/explainers/test_contract.py"],  # stands for a plain one in a test of nested ones
}
"""What shows something general by a particular explainer."""


@pytest.mark.parametrize("name", OWN)
def test_an_explainer_is_named_in_its_file_and_its_export_alone(name: str) -> None:
    file = Path(sys.modules[EXPLAINERS[name].__module__].__file__ or "").relative_to(ROOT)
    mixed = [each for each in places(name) if each.startswith("pnpxai/explainers/") and each != str(file)]
    others = [each for each in places(name) if not each.startswith("pnpxai/explainers/")]
    assert others == EXAMPLES.get(name, [])
    assert "pnpxai/explainers/__init__.py" in mixed
    assert not [each for each in mixed if Path(each).name.startswith("_") and Path(each).name != "__init__.py"]


def test_a_list_that_names_an_explainer_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "list.py"
    path.write_text(
        '"""Such as RISE."""\nDEAR = ["MP"]\nif type(x).__name__ == "Lime": raise E("Use GradCam instead.")\n'
    )
    assert {"MP", "Lime"} <= set(names_in(path))
    assert not {"RISE", "GradCam"} & set(names_in(path))
