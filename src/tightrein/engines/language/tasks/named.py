"""Functions of the user's that are given by name: module:function, or file.py:function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tightrein.errors import TightreinError, unknown


def find(name: str, flag: str, what: str) -> Callable[..., Any]:
    """The function of that name; `flag` and `what` ("reward function") are for the errors.

    Raises:
        TightreinError: it is no such name, cannot be imported, or is not there.
    """
    source, colon, function = name.rpartition(":")
    if not (colon and source and function):
        raise TightreinError(f"{flag} {name} is not module:function or file.py:function", f"give {flag} {_meant(name)}")
    try:
        path = Path(source)
        module = _load_file(path, flag, what) if source.endswith(".py") else importlib.import_module(source)
    except TightreinError:
        raise
    except Exception as error:  # importing runs somebody else's code
        raise TightreinError(
            f"{source} (for {flag} {name}) cannot be imported: {type(error).__name__}: {error}",
            "correct it, or the path to it",
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise unknown(f"function in {source}", function, [n for n in vars(module) if callable(getattr(module, n))])
    return found  # type: ignore[no-any-return]


def _meant(name: str) -> str:
    """What a name without its module or without its function may have been meant to be."""
    file = name.rstrip(":")
    return f"{file}:FUNCTION" if file.endswith(".py") or name.endswith(":") else f"FILE.py:{name.lstrip(':')}"


def _load_file(path: Path, flag: str, what: str) -> Any:
    remedy = f"give {flag} FOLDER/FILE.py:FUNCTION"
    if not path.is_file():
        raise TightreinError(f"there is no file {path} with a {what}", remedy)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TightreinError(f"{path} is not a Python file", remedy)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickling look their module up by name
    spec.loader.exec_module(module)
    return module
