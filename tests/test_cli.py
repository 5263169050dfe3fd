from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from typer.testing import CliRunner

import pnpxai
import pnpxai.demo
from pnpxai import cli
from pnpxai.errors import PnPXAIError
from pnpxai.explainers import EXPLAINERS
from pnpxai.metrics import METRICS
from pnpxai.tunable import Tunable

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_version() -> None:
    assert run("--version").strip() == pnpxai.__version__


def test_every_explainer_is_listed_with_what_its_class_says() -> None:
    lines = run("explainers").splitlines()
    for name, each in EXPLAINERS.items():
        start = next(i for i, line in enumerate(lines) if line.split()[:1] == [name])
        stop = next((i for i in range(start + 1, len(lines)) if lines[i][1:2].strip()), len(lines))
        block = " ".join(" ".join(lines[start:stop]).split())
        for tunable in each.TUNABLES:
            assert tunable in block
        for kind in each.EXCLUDED_MODULES:
            assert kind.__name__ in block
        assert ("a function" in block) == each.OUTPUTS_ONLY
    assert "epsilon 1e-06–1" in "\n".join(lines)
    assert "n_masks 100–8000" in "\n".join(lines)


def test_every_metric_is_listed_with_its_direction() -> None:
    rows = {line.split()[0]: line.split()[1] for line in run("metrics").splitlines() if len(line.split()) > 1}
    for name, each in METRICS.items():
        assert rows[name] == ("higher" if each.HIGHER_IS_BETTER else "lower")


class Searched(Tunable):
    TUNABLES = {
        "share": FloatDistribution(0.5, 2.0),
        "way": CategoricalDistribution(("up", "down")),
        "cost": FloatDistribution(1.0, 9.0),
    }
    BUDGET = ("cost",)

    def __init__(self, share: float = 1.0, way: str = "up", cost: float = 3.0) -> None:
        self.share, self.way, self.cost = share, way, cost


def test_budgets_stand_apart() -> None:
    assert cli.tunables(Searched) == "share 0.5–2\nway up | down"
    assert cli.tunables(Searched, budget=True) == "cost 1–9"


def test_the_demo_gets_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[object, dict[str, object]]] = []
    monkeypatch.setattr(pnpxai.demo, "run_demo", lambda out, **options: calls.append((out, options)))
    run("demo", "--out", str(tmp_path), "--seed", "3", "--quiet")
    run("demo")
    assert calls == [
        (tmp_path, {"seed": 3, "progress": False}),
        (Path("pnpxai-demo"), {"seed": 0, "progress": True}),
    ]


def test_a_deliberate_error_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PnPXAIError("a package", "none", "Install it.")

    monkeypatch.setattr(pnpxai.demo, "run_demo", fail)
    monkeypatch.setattr(sys, "argv", ["pnpxai", "demo"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    shown = capsys.readouterr()
    assert shown.err == "pnpxai: expected a package; received none. Install it.\n"
    assert shown.out == ""


def test_the_command_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: told.append(True))
    monkeypatch.setattr(sys, "argv", ["pnpxai", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert told == [True]


@pytest.mark.parametrize("arguments", [["nothing-like-it"], ["demo", "--seed", "-1"], ["demo", "--sede", "1"]])
def test_a_wrong_command_line_says_so(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert "Error" in done.output


def test_the_module_runs_and_the_front_door_opens_without_typer() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pnpxai", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, pnpxai.__version__)
    code = "import sys, pnpxai; print([name for name in ('typer', 'pnpxai.cli', 'pnpxai.demo') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"
