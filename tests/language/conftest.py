from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before it is imported: tests of what is not there need not wait for the network
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tightrein.engines.language.models import embedded  # noqa: E402
from tightrein.engines.language.models.policy import Policy  # noqa: E402

torch.set_num_threads(1)
WORDS = ["ab", "cd", "abcd", "dcba", "bad", "cab", "dab", "a", "bb", "cc", "dad", "add", "abba", "caca", "dc", "ba"]


def make_llama(vocabulary: int, seed: int = 0):
    torch.manual_seed(seed)
    shape = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(shape)


@pytest.fixture(scope="session")
def tokenizer():
    return embedded.make_tokenizer(WORDS, WORDS)


@pytest.fixture(params=["llama", "gpt2"])
def policy(request, tokenizer) -> Policy:
    if request.param == "llama":
        return Policy(make_llama(len(tokenizer)), tokenizer)
    torch.manual_seed(1)
    model = embedded.make_model(tokenizer, 128)
    for parameter in model.parameters():
        parameter.data.mul_(8.0)  # far from uniform
    return Policy(model, tokenizer)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> Path:
    """A tiny random model with its tokenizer, as `--model` takes it."""
    folder = tmp_path_factory.mktemp("model")
    make_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def jsonl(tmp_path) -> Path:
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps({"prompt": w, "target": w[0]}) + "\n" for w in WORDS))
    return path
