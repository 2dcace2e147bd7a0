"""Parts: frozen dataclasses whose fields are the hyperparameters, checked at construction and set by path."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Self, cast

from .arrays import is_traced
from .errors import TightreinError, nearest, unknown


def setting(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare a numeric hyperparameter of a part together with the bounds it must respect."""
    bounds = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return dataclasses.field(default=default, metadata={k: v for k, v in bounds.items() if v is not None})


_settling: ContextVar[bool] = ContextVar("settling", default=False)
_HOLDS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "above": (lambda x, b: x > b, ">"),
    "at_least": (lambda x, b: x >= b, ">="),
    "below": (lambda x, b: x < b, "<"),
    "at_most": (lambda x, b: x <= b, "<="),
}


def switched_on(coefficient: Any) -> bool:
    """Whether something with this coefficient is there: not for a plain 0; a traced one may be anything, and counts."""
    return not (isinstance(coefficient, (int, float)) and coefficient == 0)


@dataclasses.dataclass(frozen=True)
class Part:
    """Base of everything a method is made of.

    A subclass is a frozen dataclass: hashable (static under jax.jit), comparable, printable. Its fields are
    reached as `path.to.field` by `override` and by the command line's `--set`.
    """

    equation: ClassVar[str] = ""  # one line for `tightrein show`
    needs: ClassVar[frozenset[str]] = frozenset()  # fields of Decisions that it reads
    provides: ClassVar[frozenset[str]] = frozenset()  # fields of Decisions that it fills
    every_step: ClassVar[bool] = False  # whether its state moves with every gradient step, not once an iteration
    _known: ClassVar[dict[str, type[Part]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Part._known[cls.__name__] = cls

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if is_traced(value):  # its values were checked when they were given
                continue
            if isinstance(f.default, float) and type(value) is int:
                value = float(value)
                object.__setattr__(self, f.name, value)
            self._check_type(f, value)
            self._check_bounds(f, value)
        if not _settling.get():
            self.check()

    def check(self) -> None:
        """Raise TightreinError where the fields, each right by itself, make no sense together."""

    def _check_type(self, f: dataclasses.Field[Any], value: Any) -> None:
        self._check_kind(f, value)
        for kind in (bool, int, float, str):
            if type(f.default) is kind and type(value) is not kind:
                if value is None and "None" in str(f.type):
                    return
                article = "an" if kind is int else "a"
                raise TightreinError(
                    f"{type(self).__name__}.{f.name} is {value!r}, but should be {article} {kind.__name__}",
                    f"for example {f.name}={f.default!r}",
                )

    def _check_kind(self, f: dataclasses.Field[Any], value: Any) -> None:
        """Where a field is declared as a part, or a tuple of parts, it must hold one of that family."""
        several, name = re.match(r"(tuple\[)?(\w+)", str(f.type)).groups()  # type: ignore[union-attr]
        family = Part._known.get(name)
        if family is None or (value is None and "None" in str(f.type)):
            return
        held = value if several and isinstance(value, tuple) else (value,)
        if (several and not isinstance(value, tuple)) or not all(isinstance(part, family) for part in held):
            raise TightreinError(
                f"{type(self).__name__}.{f.name} is {value!r}, but should be "
                + (f"a tuple of {name} parts" if several else f"a {name}"),
                f"give one of tightrein.parts: {', '.join(_choices(family)) or name}",
            )

    def _check_bounds(self, f: dataclasses.Field[Any], value: Any) -> None:
        for name, bound in f.metadata.items():
            if name not in _HOLDS or value is None:
                continue
            holds, sign = _HOLDS[name]
            if not isinstance(value, (int, float)) or not holds(value, bound):
                raise TightreinError(
                    f"{type(self).__name__}.{f.name} is {value!r}, but must be {sign} {bound}",
                    f"give {f.name} a value {sign} {bound}",
                )

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """Why this part makes no sense in a PolicyObjective, and the remedy; None where it does.

        Asked of every part of a policy objective when that is made.
        """
        return None

    def init(self, prompts: int) -> Any:
        """State at the start: an array, or a dict of arrays; None: it has none.

        prompts: how many different prompts there are; what is kept for each prompt is an array of that length.
        """
        return None

    def update(self, state: Any, decisions: Any, progress: Any) -> Any:
        """State of the next iteration; only called where there is a state.

        decisions: evaluated under the policy after its update; with `every_step` those of a gradient step, before it.
        progress: share of the training done, in [0, 1].
        """
        raise NotImplementedError

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def children(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of each field; parts inside tuples are named after their class."""
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, tuple) and any(isinstance(v, Part) for v in value):
                for part in value:
                    yield f"{f.name}.{snake_case(type(part).__name__)}", part
            else:
                yield f.name, value

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Yield (path, value) of every field below this part, parts before what is in them."""
        for name, value in self.children():
            yield prefix + name, value
            if isinstance(value, Part):
                yield from value.walk(f"{prefix}{name}.")

    def settings(self) -> dict[str, Any]:
        """Every hyperparameter as path -> value; a part stands as its class name."""
        return {p: type(v).__name__ if isinstance(v, Part) else v for p, v in self.walk() if _is_setting(v)}

    def override(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with the settings at the given paths changed.

        A path may be shortened to its end ("epsilon") while that is unambiguous. Strings are read as the
        type of the field; a part is replaced by a part or by the class name of one, a tuple of parts by a tuple.

        Raises TightreinError for an unknown or ambiguous path, naming the nearest, and for a bad value.
        """
        result = self
        within = _settling.set(True)  # what fits together only when all is changed must not fail before
        try:
            for path in sorted(changes, key=self._depth):  # parts before what is inside them
                result = result._set(result._resolve(path), changes[path])
        finally:
            _settling.reset(within)
        if not _settling.get():
            result.check()
            for _, value in result.walk():
                if isinstance(value, Part):
                    value.check()
        return result

    def traced(self, values: Mapping[str, Any]) -> Self:
        """A copy with numbers at whole paths replaced by arrays that a compiler traces, of which nothing is checked."""
        within = _settling.set(True)
        try:
            result = self
            for path, value in values.items():
                result = result._set(path, value)
            return result
        finally:
            _settling.reset(within)

    def _depth(self, path: str) -> tuple[bool, int]:
        """What is set first: what is outermost; and last what is only there once something else is set."""
        try:
            return False, self._resolve(path).count(".")
        except TightreinError:
            return True, path.count(".")

    def _resolve(self, path: str) -> str:
        known = [p for p, v in self.walk() if _is_setting(v)]
        if path in known or self._holds_parts(path):
            return path
        ends = [p for p in known if p.endswith("." + path)]
        if len(ends) == 1:
            return ends[0]
        if ends:
            raise TightreinError(f"setting {path!r} is ambiguous", "say which: " + ", ".join(ends))
        near = nearest(path, known) or known[:8]
        raise TightreinError(f"there is no setting {path!r}", f"nearest: {', '.join(near)}")

    def _holds_parts(self, path: str) -> bool:
        """Whether the field at `path` is declared as a tuple of parts, which is replaced as a whole."""
        name, _, rest = path.partition(".")
        if rest:
            child = getattr(self, name, None)
            return isinstance(child, Part) and child._holds_parts(rest)
        declared = {f.name: re.match(r"tuple\[(\w+)", str(f.type)) for f in dataclasses.fields(self)}.get(name)
        return declared is not None and declared[1] in Part._known

    def _set(self, path: str, value: Any) -> Self:
        if self._holds_parts(path) and "." not in path:
            return self.replace(**{path: _read_parts(path, value)})
        name, child = next((n, c) for n, c in self.children() if path == n or path.startswith(n + "."))
        field = name.split(".")[0]
        declared = str({f.name: f.type for f in dataclasses.fields(self)}[field])
        new = child._set(path[len(name) + 1 :], value) if path != name else _read(path, declared, child, value)
        if field == name:
            return self.replace(**{name: new})
        return self.replace(**{field: tuple(new if p is child else p for p in getattr(self, field))})

    def label(self) -> str:
        """Class name and hyperparameters on one line."""
        inner = ", ".join(
            f"{n}={v.label() if isinstance(v, Part) else v!r}" for n, v in self.children() if _is_setting(v)
        )
        return f"{type(self).__name__}({inner})"


def _choices(family: type[Part]) -> list[str]:
    """Names of the parts of a family."""
    return sorted(name for name, known in Part._known.items() if issubclass(known, family) and known is not family)


def snake_case(name: str) -> str:
    """KLInReward -> kl_in_reward."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _is_setting(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, Part))


def _read(path: str, declared: str, old: Any, new: Any) -> Any:
    """The new value of a field, from a value or from text; `declared` is the field's type as written."""
    if "None" in declared and (new is None or str(new).lower() == "none"):
        return None
    if isinstance(old, Part) or isinstance(new, Part) or (isinstance(new, str) and new in Part._known):
        return _read_part(path, declared, old, new)
    if not isinstance(new, str) or isinstance(old, str):
        return new
    readers: dict[type, Callable[[str], Any]] = {bool: _read_bool, int: int, float: float}
    try:
        return readers.get(type(old), _read_number)(new)
    except ValueError:
        raise TightreinError(f"{path}={new} is not a {declared}", f"the present value is {old!r}") from None


def _read_bool(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError(text)
    return text.lower() in ("true", "1", "yes")


def _read_number(text: str) -> float | int:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _read_part(path: str, declared: str, old: Any, new: Any) -> Part:
    if new == type(old).__name__:  # its own name: what is set inside it stays
        return cast(Part, old)
    family = Part._known.get(re.findall(r"\w+", declared.removeprefix("tuple"))[0])
    if family is None:
        raise TightreinError(f"{path} is a {declared} and cannot be {new!r}", f"the present value is {old!r}")
    if isinstance(new, family):
        return new
    choices = {n: c for n, c in Part._known.items() if issubclass(c, family) and c is not family}
    choices = choices or {family.__name__: family}  # the only one of its kind
    if isinstance(new, str) and new in choices:
        return _make(choices[new])
    raise unknown(f"{family.__name__} (for {path})", new if isinstance(new, str) else type(new).__name__, choices)


def _read_parts(path: str, new: Any) -> tuple[Part, ...]:
    if isinstance(new, tuple) and all(isinstance(part, Part) for part in new):
        return new
    raise TightreinError(f"{path} is {new!r}, but holds a tuple of parts", f"in Python, {path}=(SomePart(), ...)")


def _make(cls: type[Part]) -> Part:
    try:
        return cls()
    except TypeError:
        raise TightreinError(
            f"{cls.__name__} cannot be made without arguments", "make it in Python and pass it"
        ) from None
