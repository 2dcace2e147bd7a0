"""Run folders made without training."""

import pytest

from tightrein.runs import Run


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A function that makes a run folder with curves of a known shape."""

    def make(name, engine="control", method="spo", seeds=2, updates=40, finished=True, **config):
        task = {"env": "CartPole-v1"} if engine == "control" else {"task": "chain_sum"}
        given = {"engine": engine, "method": method, **task, "seeds": seeds, "seed": 0, "total_steps": 1000, **config}
        monkeypatch.setattr("sys.argv", ["/somewhere/bin/tightrein", "train", engine, "--method", method])
        run = Run.create(tmp_path / "runs" / name, given, resume=False)
        for update in range(updates):
            if engine == "control":
                log_control(run, update, seeds, last=update == updates - 1)
            else:
                run.log(update, accuracy=0.5, **({"eval_accuracy": 0.5 + update / 100} if update % 10 == 0 else {}))
        if finished:
            run.finish({"eval_return": 1.0})
        return run.folder

    return make


def log_control(run, update, seeds, last):
    for seed in range(seeds):
        value = 10.0 * update + seed
        run.log(100 * update, seed=seed, return_mean=value, **({"eval_return": value} if update == 0 or last else {}))
