"""Methods that learn from a replay buffer."""

from __future__ import annotations

from ..method import Method, Source, Training
from ..objective.replay import MirrorActor, ReplayObjective
from ..replay import Replay
from ..step import Adam

MDPO_OFF = Method(
    key="mdpo_off",
    title="Mirror Descent Policy Optimization, off-policy",
    home="control",
    experience="replay",
    source=Source(
        paper="Mirror Descent Policy Optimization",
        year=2020,
        arxiv="2005.09814",
        code="manantomar/Mirror-Descent-Policy-Optimization mdpo_off/mdpo.py, policies.py, run_mujoco.py",
        differences="the code was read, of the paper the abstract and the authors' summary. The code collects by the "
        "mode of the policy, variant 'released'; here, as for any soft actor-critic, the policy draws. Its example has "
        "temperature 0.2; variant 'hard' is without entropy. It takes Tsallis logarithms of the dimensions one by one, "
        "which are the logarithm at its q of 1: the option is left out. The annealing of the step size is commented "
        "out there. It begins with previous and present policy apart, here they are the same. The actor reads the "
        "first Q alone, as there. Its networks have two layers of 256: --hidden 256 256.",
    ),
    objective=ReplayObjective(MirrorActor()),
    step=Adam(learning_rate=3e-4),
    replay=Replay(),
    training=Training(envs=1, rollout=1),
    variants=(
        ("released", (("replay.deterministic", True),)),
        ("hard", (("objective.temperature", 0.0),)),
    ),
)

METHODS = (MDPO_OFF,)
