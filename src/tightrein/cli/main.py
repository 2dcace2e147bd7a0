"""Which command was asked for, and what its end means: 0 done, 1 a method fails, 2 a user's slip, 130 interrupted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from tightrein.errors import TightreinError, require


@dataclass(frozen=True)
class Methods:
    """List the methods: key, title, paper, home, and what each is made of."""

    def run(self) -> None:
        """Print the table."""
        from tightrein.cli.catalogue import print_methods

        print_methods()


@dataclass(frozen=True)
class Show:
    """Show a method: formula, paper, code, where they differ, and every hyperparameter with its bounds."""

    key: str
    """Method by its key (`tightrein methods` lists them)."""
    variant: str = "paper"
    """As the "paper" has it, or as the "released" code does where they differ."""

    def run(self) -> None:
        """Print it."""
        from tightrein.cli.catalogue import print_method

        print_method(self.key, self.variant)


@dataclass(frozen=True)
class Verify:
    """Check methods: exact properties, agreement of array libraries, gradients, relations, peers; ends with 1 if one
    fails."""

    keys: tuple[str, ...]
    """Methods by their keys; all of them if none is given."""
    learning: bool = False
    """Run each method's demonstration too: a short training run (a minute or so each)."""
    write: bool = False
    """Record what was found and write it to docs/methods.md (in a checkout of the repository)."""
    workers: int = os.cpu_count() or 1
    """Processes that share the work."""

    def run(self) -> int:
        """Check them and print the table."""
        from tightrein.cli.verify import verify

        return verify(self.keys, self.learning, self.write, self.workers)


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about runs: learning curves, figures, settings, versions, commands."""

    runs: tuple[Path, ...]
    """Run folders, or folders that hold run folders."""
    out: Path = Path("report.html")
    """The page to write."""
    figure: Path | None = None
    """Write the learning curves to this .svg, .png or .pdf file too."""

    def run(self) -> None:
        """Write it and say where it is."""
        from tightrein.lab.report import figure, write_report

        write_report(self.runs, self.out)
        print(f"report: {self.out}")
        if self.figure is not None:
            figure(self.runs, self.figure)
            print(f"figure: {self.figure}")


@dataclass(frozen=True)
class Play:
    """Play episodes of a trained control policy: recorded to a video, or shown in a window."""

    folder: Path
    """A run folder, finished or not, or a checkpoint inside one."""
    out: Path | None = None
    """The video, .mp4 or .gif (play.mp4 in the run folder; with --show none)."""
    episodes: int = 1
    """How many, one after another."""
    seed: int | None = None
    """Which of the run's seeds (the one with the best return at the last evaluation)."""
    env_seed: int = 0
    """Seed of the environment in the first episode; the others follow it."""
    sample: bool = False
    """Draw actions from the policy, in place of the most probable one."""
    show: bool = False
    """Open a window (closing it, or Escape, ends the play)."""

    def run(self) -> None:
        """Play them."""
        from tightrein.cli.play import play

        play(self.folder, self.out, self.episodes, self.seed, self.env_seed, self.sample, self.show)


@dataclass(frozen=True)
class Export:
    """Write a trained control policy as an ONNX file, normalisation inside, checked by running it."""

    folder: Path
    """A run folder, finished or not, or a checkpoint inside one."""
    out: Path | None = None
    """The file (policy.onnx in the run folder)."""
    seed: int | None = None
    """Which of the run's seeds (the one with the best return at the last evaluation)."""

    def run(self) -> None:
        """Write it."""
        from tightrein.cli.export import export

        export(self.folder, self.out, self.seed)


@dataclass(frozen=True)
class Control:
    """Train a policy on a control task."""


@dataclass(frozen=True)
class Language:
    """Train a language model on a task with checkable answers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Unexpected exceptions keep their traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except TightreinError as error:
        _complain(error)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` for example, has had enough; nothing is left to say at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(given: list[str]) -> int:
    if given == ["--version"]:
        print(f"tightrein {version('tightrein')}")
    elif given[:1] == ["train"] and given[1:2] in (["control"], ["language"]):
        from tightrein.cli.train import train

        train(given[1], given[2:])
    else:
        return _parse(given).run() or 0
    return 0


def _parse(given: list[str]) -> Any:
    """The command as one of the classes above; help and slips end here, in tyro, with exit code 0 or 2."""
    tyro = require("tyro", "cli")
    annotated: Any = Annotated  # with what is only known here

    def choice(members: dict[str, Any]) -> Any:
        union: Any = None
        for name, kind in members.items():
            member = annotated[kind, tyro.conf.subcommand(name, prefix_name=False)]
            union = member if union is None else union | member
        return union

    train = make_dataclass("Train", [("engine", choice({"control": Control, "language": Language}))])
    train.__doc__ = "Train a policy: `tightrein train control --help`, `tightrein train language --help`."
    commands = {"train": train, "methods": Methods, "show": Show, "verify": Verify, "report": Report, "play": Play,
                "export": Export}  # fmt: skip
    return tyro.cli(
        choice(commands),
        prog="tightrein",
        description="Policy optimization under a trust region, every published method by name.",
        args=given or ["--help"],
        config=(tyro.conf.PositionalRequiredArgs,),
    )


def _complain(error: TightreinError) -> None:
    red, bold, plain = ("\033[31m", "\033[1m", "\033[0m") if sys.stderr.isatty() else ("", "", "")
    print(f"{red}{bold}error:{plain}{red} {error}{plain}", file=sys.stderr)
