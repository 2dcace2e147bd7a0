"""Grids: every point learns what it learns alone, mistakes are told before anything is written, runs can be read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import config, lines, run

import tightrein as tr
from tightrein.cli.train import _config, _print_end
from tightrein.engines.control import environments
from tightrein.engines.control.compose import compose, with_actions
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.grid import Grid, check_traceable, composed
from tightrein.engines.control.train import learner_of, train, trainer_of
from tightrein.errors import TightreinError
from tightrein.lab.records import panels, read_records

PENDULUM = {"env": "Pendulum-v1", "backend": "envpool"}
# Settings that decide how many decisions are taken out, or how many bounds are tried: the shape of the computation.
SHAPES = {
    "bapo": {f"objective.surrogate.bounds.{name}" for name in ("high", "high_max", "high_step")},
    "hyperpp": {f"heads.{name}" for name in ("curvature", "alpha", "limit", "sharpness")},
    "clip_cov": {"objective.correction.share"},
    "kl_cov": {"objective.trust.share"},
    "props": {f"behaviour.objective.{name}" for name in ("reference.coef", "value.coef", "entropy")},
}


def made(given: ControlConfig) -> Any:
    """The trainer of all rows, as `train` makes it."""
    method, _, grid = composed(given)
    spec = environments.find(given.env, given.backend)
    method = with_actions(method, spec.actions)
    return trainer_of(given, method, spec, Plan.of(given, method.training), grid)


def parameters(trainer: Any, row: int) -> np.ndarray:
    learner = getattr(trainer.state, "learner", trainer.state)
    return np.concatenate([np.ravel(leaf[row]) for leaf in jax.tree.leaves(learner.network)])


def gridded(given: ControlConfig, method: Any) -> Iterator[str]:
    """The settings of which control can take a number other than the method's own (or any, where that is none)."""
    for path, value in method.settings().items():
        owner = dict(method.walk()).get(path.rpartition(".")[0], method)
        declared = str({f.name: f.type for f in dataclasses.fields(owner)}.get(path.rpartition(".")[2]))
        if declared.startswith("float") and any(
            _composes(given, f"{path}={other}") for other in (0.5, 2.0) if other != value
        ):
            yield path


def _composes(given: ControlConfig, item: str) -> bool:
    try:
        compose(dataclasses.replace(given, set=(item,)))
    except TightreinError:
        return False
    return True


@pytest.mark.parametrize("key", tr.methods())
def test_every_real_setting_of_every_method_can_be_varied_or_is_refused_by_name(key: str) -> None:
    env = "CartPole-v1" if tr.method(key).replay is None else "Pendulum-v1"
    given = config(method=key, env=env, minibatches=1)
    if not _composes(given, "training.epochs=1"):
        return  # control cannot run it at all
    method, _ = compose(given)
    spec = environments.find(given.env, given.backend)
    method = with_actions(method, spec.actions)
    learner = learner_of(method.objective, given, method, spec, Plan.of(given, method.training))
    left = set(gridded(given, method))
    assert len(left) >= 8
    assert SHAPES.get(key, set()) <= left
    check_traceable(learner, Grid(dict.fromkeys(sorted(left - SHAPES.get(key, set())), (0.5,))), 1)
    for path in SHAPES.get(key, set()):
        with pytest.raises(TightreinError, match=f"{path} decides the shape(.|\n)*one after another"):
            check_traceable(learner, Grid({path: (0.5,), "step.learning_rate": (0.1,)}), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": ("learning_rate=1e-3,3e-3", "objective.entropy=0,0.01")},
        {"grid": ("learning_rate=1e-3,3e-3", "credit.lam=0,0.9"), **PENDULUM},
        pytest.param(
            {"method": "ppo_kl", "grid": ("controller.coef=0,50", "clip_range=0.1,10"), "learning_rate": 1e-2},
            marks=pytest.mark.slow,
        ),
        pytest.param({"method": "trpo", "grid": ("step.delta=0.001,0.02",)}, marks=pytest.mark.slow),
    ],
)
def test_a_row_of_a_grid_learns_what_it_learns_alone(changes: dict[str, Any]) -> None:
    given = config(seeds=2, **changes)
    together, grid = made(given), composed(given)[2]
    together.run(0, 3)
    last = len(grid.points) - 1
    for point in (0, last):
        items = tuple(f"{path}={value!r}" for path, value in grid.points[point].items())
        alone = made(dataclasses.replace(given, seeds=1, seed=1, grid=(), set=(*given.set, *items)))
        alone.run(0, 3)
        # The last digits differ, as compilers fuse a constant otherwise than a number that is given.
        np.testing.assert_allclose(parameters(together, 2 * point + 1), parameters(alone, 0), atol=1e-5)
        np.testing.assert_allclose(together.evaluate(3)[2 * point + 1], alone.evaluate(3)[0], rtol=1e-3)
    assert np.abs(parameters(together, 1) - parameters(together, 2 * last + 1)).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": ("learning_rate=1e-4,-1",)}, "learning_rate is -1.0, but must be > 0"),
        ({"grid": ("learning_rat=1e-4",)}, "learning_rate"),
        ({"grid": ("learning_rate=1e-4,fast",)}, "'fast' is not a number"),
        ({"grid": ("learning_rate=nan",)}, "nan is not a number"),
        ({"grid": ("learning_rate=0.1,1e-1",)}, "there twice"),
        ({"grid": ("learning_rate=0.1", "step.learning_rate=0.2")}, "twice"),
        ({"grid": ("learning_rate",)}, "not name=value"),
        ({"grid": ("learning_rate=0.1",), "learning_rate": 0.1}, "set too"),
        ({"grid": ("entropy=0.1",), "set": ("objective.entropy=0.1",)}, "set too"),
        ({"grid": ("epochs=2,4",)}, "epochs(.|\n)*one after another"),
        ({"grid": ("training.minibatches=2,4",)}, "is a int(.|\n)*one after another"),
        ({"grid": ("step.anneal=true,false",)}, "is a bool(.|\n)*one after another"),
        ({"grid": ("objective.value.clip_range=none,0.2",)}, "cannot be none(.|\n)*one after another"),
        ({"grid": ("step=Adam,RMSprop",)}, "is a Step(.|\n)*one after another"),
        ({"grid": ("envs=2,4",)}, "envs(.|\n)*one after another"),
        ({"grid": ("seeds=2,4",)}, "--seeds"),
        ({"grid": ("objective.reference.coef=0,0.1",)}, "no reference policy in control"),
        ({"grid": ("objective.surrogate.bounds.high=1.1,1.2",), "method": "bapo"}, "decides the shape"),
        ({"grid": ("high=1.1,9.0",), "method": "bapo"}, "climb"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TightreinError, match=message):
        train(config(out=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_mapping_is_a_grid_too_and_the_command_may_repeat_it() -> None:
    given = ControlConfig(grid={"learning_rate": np.array([1e-4, 0.1]), "credit.lam": 1})  # type: ignore[arg-type]
    assert given.grid == ("learning_rate=0.0001,0.1", "credit.lam=1")
    words = ["--grid", "learning_rate=1e-4,0.1", "--seeds", "2", "--grid=credit.lam=1"]
    assert _config("control", words).grid == ("learning_rate=1e-4,0.1", "credit.lam=1")
    points = composed(given)[2].points
    assert points == [
        {"step.learning_rate": 1e-4, "credit.lam": 1.0},
        {"step.learning_rate": 0.1, "credit.lam": 1.0},
    ]


def test_without_a_grid_nothing_in_a_run_tells_of_one(tmp_path: Path) -> None:
    rows = run(tmp_path / "run")
    assert "grid" not in json.loads((tmp_path / "run" / "config.json").read_text())
    assert not any("point" in row for row in rows)
    assert "points" not in json.loads((tmp_path / "run" / "summary.json").read_text())


def test_a_grid_run_tells_its_points_everywhere_and_resumes_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"seeds": 2, "grid": ("learning_rate=1e-3,1e-2", "entropy=0,0.01"), "checkpoint_every": 5, "log_every": 5}
    run(tmp_path / "run", **{**changes, "total_steps": 160})
    resumed = run(tmp_path / "run", resume=True, **changes)
    assert resumed == run(tmp_path / "whole", **changes)
    told = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert told["grid"] == {"step.learning_rate": [1e-3, 1e-2], "objective.entropy": [0.0, 0.01]}
    assert told["settings"]["objective.entropy"] == [0.0, 0.01]
    last = [row for row in resumed if row["step"] == 320]
    assert [row["seed"] for row in last] == [0, 1] * 4
    assert [tuple(row["point"].values()) for row in last][::2] == [(1e-3, 0), (1e-3, 0.01), (1e-2, 0), (1e-2, 0.01)]

    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    means = [point["eval_return_mean"] for point in summary["points"]]
    assert means == sorted(means, reverse=True)
    by_point = {json.dumps(row["point"]): [] for row in last}
    for row in last:
        by_point[json.dumps(row["point"])].append(row["eval_return"])
    for point in summary["points"]:
        assert point["eval_return"] == by_point[json.dumps(point["point"])]
        assert point["eval_return_mean"] == pytest.approx(np.mean(point["eval_return"]))
        assert point["eval_return_std"] == pytest.approx(np.std(point["eval_return"], ddof=1))
    _print_end(summary, config(out=tmp_path / "whole"))
    table = capsys.readouterr().out.splitlines()[-5:]
    assert table[0].split() == ["learning_rate", "entropy", "eval_return", "+-", "range"]

    records = read_records([tmp_path / "whole"])
    assert [record.settings["settings.step.learning_rate"] for record in records] == [1e-3, 1e-3, 1e-2, 1e-2]
    assert all(len(record.series("eval_return")) == 2 for record in records)
    (panel,) = panels(records)
    assert panel.groups[3].label == "ppo_clip (entropy=0.01, learning_rate=0.01)"


@pytest.mark.parametrize("changes", [{}, pytest.param(PENDULUM, marks=pytest.mark.slow)])
def test_a_point_that_diverges_does_not_end_the_others(changes: dict[str, Any], tmp_path: Path) -> None:
    given = {"grid": ("learning_rate=1e-3,1e38",), "log_every": 5, **changes}
    rows = run(tmp_path / "run", **given)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    good, bad = summary["points"]
    assert good["diverged"] == {}
    assert bad["diverged"] == {"0": 1}
    alone = run(tmp_path / "alone", learning_rate=1e-3, log_every=5, **changes)
    assert good["eval_return"] == pytest.approx([alone[-1]["eval_return"]], rel=1e-3)
    assert rows[-1]["point"] == {"learning_rate": 1e38}
    with pytest.raises(TightreinError, match="seed 0 and all other rows"):
        run(tmp_path / "none", **{**given, "grid": ("learning_rate=1e37,1e38",)})
    assert lines(tmp_path / "none")[-1]["step"] == 0
