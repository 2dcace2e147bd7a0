"""Stop strings are found in the token that completes them, in whatever pieces a tokenizer cuts them."""

import pytest
import tokenizers
import torch
import transformers

from tightrein.engines.language.sampling.stopping import Stops

TEXT = "The answer is 42.\n\nQuestion: how many? Naïve café – 3 € or 4 €.\nAnswer: none\n\n" * 3


def made(kind: str):
    """Bytes with their spaces inside, or words whose first space goes missing, with bytes for what is unknown."""
    special = ["<pad>", "<eos>"]
    if kind == "bytes":
        core = tokenizers.Tokenizer(tokenizers.models.BPE())
        core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = tokenizers.decoders.ByteLevel()
        letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    else:
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        core = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<pad>"))
        core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        strip = tokenizers.decoders.Strip(" ", 1, 0)
        parts = [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
        core.decoder = tokenizers.decoders.Sequence([*parts, strip])
        letters = []
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(special) + len(letters) + 60, special_tokens=special, initial_alphabet=letters
    )
    core.train_from_iterator([TEXT], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


@pytest.mark.parametrize("stops", [("\n\n",), ("Question:", "42"), ("€",), (" or ", "é –"), ("ı",)])
@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_the_token_is_found_with_which_a_text_first_contains_a_stop_string(kind, stops):
    tokenizer = made(kind)
    looking, generator, found = Stops(tokenizer, stops), torch.Generator().manual_seed(0), 0
    for row in range(60):
        ids = tokenizer(TEXT)["input_ids"][row:][:60]
        if row % 2:  # any tokens at all, as a model writes them
            ids = [ids[i] for i in torch.randint(len(ids), (60,), generator=generator).tolist()]
        ids.insert(30, tokenizer.pad_token_id)
        ends = looking.may_end(torch.tensor(ids))
        lengths = range(1, len(ids) + 1)
        first = next((n for n in lengths if ends[n - 1] and looking.ends(ids[:n][-looking.width :])), None)
        texts = [tokenizer.decode(ids[:n], skip_special_tokens=True) for n in lengths]
        wanted = next((n for n, text in enumerate(texts, 1) if any(stop in text for stop in stops)), None)
        assert first == wanted
        found += wanted is not None
    assert (found > 0) == (stops != ("ı",))


def test_most_tokens_need_no_look():
    tokenizer = made("bytes")
    looking = Stops(tokenizer, ("\n\n", "END"))
    assert looking.may_end(torch.arange(len(tokenizer))).float().mean() < 0.1
