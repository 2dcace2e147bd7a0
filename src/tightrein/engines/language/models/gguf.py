"""GGUF files: a model with its tokenizer and chat template in one file, most often with few bits a weight.

transformers reads them. Here its model is made one that can be trained and saved (in float32, its weights unpacked),
and its tokenizer one that cuts texts as the file says.
"""

from __future__ import annotations

import contextlib
import io
import struct
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from tightrein.engines.language.tasks.datasets import first_line
from tightrein.errors import TightreinError, require

SUFFIX = ".gguf"
MAGIC = b"GGUF"
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # kinds of values
TEXT, ARRAY = 8, 9
# Vocabularies whose merges were learnt with every digit by itself, by what the file calls their way of cutting texts.
# transformers cuts them as GPT-2's, which joins the last of several spaces to a digit.
DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
REMEDY = "give a whole .gguf file of a causal language model, or the folder that it was made from"


def load_gguf(path: Path) -> tuple[Any, Any]:
    """(model in float32, tokenizer) of this file.

    Raises:
        TightreinError: there is no such file, it is cut off or of a kind that transformers does not know, or a package
            is missing.
    """
    transformers = require("transformers", "language")
    told = facts(path)
    require("gguf", "language")
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    packed = getattr(transformers, "GgufConfig", None)  # older ones always unpack
    if packed is not None:
        options["quantization_config"] = packed(dequantize=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # of its progress bars one cannot be switched off
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(**where, padding_side="left")
            model, loaded = transformers.AutoModelForCausalLM.from_pretrained(**where, **options)
    except Exception as error:  # kinds of models and of weights have errors of their own
        raise TightreinError(f"{path} cannot be loaded: {type(error).__name__}: {first_line(error)}", REMEDY) from error
    if loaded["missing_keys"]:
        raise TightreinError(f"{path} lacks the weights {', '.join(sorted(loaded['missing_keys'])[:3])}", REMEDY)
    if told.get("tokenizer.ggml.pre") in DIGITS_APART:
        _cut_digits(tokenizer)
    return model, tokenizer


def _cut_digits(tokenizer: Any) -> None:
    cut = require("tokenizers", "language").pre_tokenizers
    tokenizer.backend_tokenizer.pre_tokenizer = cut.Sequence(
        [cut.Digits(individual_digits=True), cut.ByteLevel(add_prefix_space=False, use_regex=True)]
    )


def facts(path: Path) -> dict[str, Any]:
    """The single numbers and texts that a GGUF file says of itself; its lists are left out.

    Raises:
        TightreinError: there is no such file, or it is no GGUF file, or is cut off.
    """
    if not path.is_file():
        raise TightreinError(f"there is no file {path}", "check the path; it is looked for from where you are")
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise TightreinError(f"{path} is not a GGUF file", REMEDY)
        try:
            version, _, count = _numbers(file, "IQQ")
            if not 2 <= version <= 3:
                raise TightreinError(f"{path} is GGUF of version {version}", "convert it to version 3")
            pairs = [(_text(file), _value(file, _numbers(file, "I")[0])) for _ in range(count)]
        except (struct.error, UnicodeDecodeError, KeyError, OverflowError, MemoryError) as error:
            raise TightreinError(f"{path} is cut off or damaged", REMEDY) from error
    return {name: value for name, value in pairs if value is not None}


def _value(file: BufferedReader, kind: int) -> Any:
    """The value that comes next, or None in place of a list."""
    if kind == TEXT:
        return _text(file)
    if kind != ARRAY:
        return _numbers(file, NUMBERS[kind])[0]
    item, length = _numbers(file, "IQ")
    if item in NUMBERS:
        file.seek(length * struct.calcsize("<" + NUMBERS[item]), 1)
    else:
        for _ in range(length):
            _value(file, item)
    return None


def _text(file: BufferedReader) -> str:
    (length,) = _numbers(file, "Q")
    data = file.read(length)
    if len(data) < length:
        raise struct.error("the text is cut off")
    return data.decode("utf-8", "replace")


def _numbers(file: BufferedReader, kinds: str) -> tuple[Any, ...]:
    return struct.unpack("<" + kinds, file.read(struct.calcsize("<" + kinds)))
