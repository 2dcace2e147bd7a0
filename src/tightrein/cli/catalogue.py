"""`tightrein methods` and `tightrein show KEY`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import tightrein
from tightrein.anchor.reference import Frozen
from tightrein.errors import require
from tightrein.method import Method, Source
from tightrein.settings import Part

SIGNS = {"above": ">", "at_least": ">=", "below": "<", "at_most": "<="}


def print_methods() -> None:
    """Print the table of all methods."""
    table = require("rich.table", "cli").Table(box=require("rich.box", "cli").SIMPLE_HEAD, pad_edge=False)
    for column, style in (("key", "bold cyan"), ("title", ""), ("paper", ""), ("home", ""), ("made of", "dim")):
        table.add_column(column, style=style, no_wrap=column in ("key", "paper", "home"))
    for method in map(tightrein.method, tightrein.methods()):
        title = method.title + (" (reconstruction)" if method.source.reconstruction else "")
        table.add_row(method.key, title, _cited(method.source), method.home, _stages(method))
    console = _console()
    console.print(table)
    console.print("[dim]tightrein show KEY tells more about one[/dim]")


def print_method(key: str, variant: str) -> None:
    """Print what is known of a method.

    Raises:
        TightreinError: an unknown key or variant.
    """
    method = tightrein.method(key, variant)
    console = _console()
    text = require("rich.text", "cli").Text
    console.print(text.assemble((method.key, "bold cyan"), "  ", (method.title, "bold")))
    if method.source.warning:
        console.print(text(method.source.warning, style="bold yellow"))
    console.print()
    facts = require("rich.table", "cli").Table.grid(padding=(0, 3))
    for label, value in _about(method, variant):
        facts.add_row(text(label, style="dim"), text(value))
    console.print(facts)
    console.print()
    console.print(_tree(method))
    if method.relations:
        console.print()
        console.print(text("relations", style="dim"))
        for relation in method.relations:
            console.print(text(f"  {relation}"))


def _console() -> Any:
    """Wide where the output goes to a file or a pipe, so that nothing is cut there."""
    return require("rich.console", "cli").Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def _cited(source: Source) -> str:
    return f"arXiv {source.arxiv} ({source.year})" if source.arxiv else str(source.year)


def _stages(method: Method) -> str:
    """The parts that make the method, stage by stage, without the hyperparameters."""
    objective = [value for _, value in method.objective.children() if isinstance(value, Part) and not _off(value)]
    credit = () if method.credit is None else (method.credit,)
    parts = (*method.reward, *credit, *method.selection, *objective)
    return ", ".join(type(part).__name__ for part in parts)


def _off(part: Part) -> bool:
    """Whether the part is weighted by nothing, as a penalty that the method does not use."""
    return bool(getattr(part, "coef", 1) == 0)


def _about(method: Method, variant: str) -> Iterator[tuple[str, str]]:
    source = method.source
    yield from _formulas(method)
    yield "home", f"{method.home}, from {method.experience}"
    yield "paper", f"{source.paper} ({source.year})" + (f", arXiv {source.arxiv}" if source.arxiv else "")
    if source.code:
        yield "code", source.code
    yield "read", f"{source.read}; confidence {source.confidence}"
    if source.differences:
        yield "differs", source.differences
    others = [name for name in ("paper", *(name for name, _ in method.variants)) if name != variant]
    yield "variant", variant + (f" (others: --variant {', '.join(others)})" if others else "")
    yield "reads", ", ".join(sorted(method.update_needs | method.prepare_needs))


def _formulas(method: Method) -> Iterator[tuple[str, str]]:
    """What makes the method what it is, stage by stage: the loss, and what else has a formula and is on."""
    objective = dict(method.objective.children())
    yield "formula", method.objective.equation or objective["surrogate"].equation
    surrogate: Any = objective.get("surrogate")
    for name, part in () if surrogate is None else surrogate.children():
        if isinstance(part, Part) and part.equation and part.needs <= surrogate.needs:
            yield name, part.equation
    beside = {name: objective.get(name) for name in ("correction", "reference", "trust")}
    stages = {name: getattr(method, name, None) for name in ("credit", "curriculum", "step", "critic")}
    parts = [("reward", part) for part in method.reward] + list({**beside, **stages}.items())
    parts += [("term", part) for name, part in objective.items() if name.startswith("terms.")]
    parts += [("selection", part) for part in method.selection]
    parts += [] if isinstance(method.anchor, Frozen) else [("anchor", method.anchor)]
    for name, part in parts:
        if part is not None and part.equation and not _off(part):
            yield name, part.equation


def _tree(method: Method) -> Any:
    tree = require("rich.tree", "cli").Tree("parts and hyperparameters, as [bold]--set path=value[/bold]")
    known = method.settings()
    for name, value in method.children():
        if isinstance(value, Part):
            _grow(tree, value, name, known)
    return tree


def _grow(tree: Any, part: Part, path: str, known: dict[str, Any]) -> None:
    """Add `part` and all that is in it below `tree`."""
    text = require("rich.text", "cli").Text
    equation = f"  {part.equation}" if part.equation else ""
    off = "  off" if _off(part) else ""
    branch = tree.add(text.assemble((f"{path}=", "cyan"), (type(part).__name__, "bold"), equation, (off, "yellow")))
    bounds = {field.name: field.metadata for field in dataclasses.fields(part)}
    for child, value in part.children():
        below = f"{path}.{child}"
        if isinstance(value, Part):
            _grow(branch, value, below, known)
        elif below in known:
            limits = ", ".join(f"{sign} {bounds[child][key]:g}" for key, sign in SIGNS.items() if key in bounds[child])
            branch.add(text.assemble((f"{below}={value}", "cyan"), (f"  {limits}" if limits else "", "dim")))
