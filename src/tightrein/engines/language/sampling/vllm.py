"""vLLM as the sampler: it writes the answers, with weights of its own, and says how likely each token was.

Written against vLLM 0.33.0, in one process with the model that is trained. Its arithmetic is not that of the model
(other kernels, often another precision), so what it says of a token is not what training finds, as with any fast
sampler.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.sampling.decoding import Decoding, draw_seeds
from tightrein.engines.language.sampling.samples import Samples, pad_left
from tightrein.errors import TightreinError

SHARE = 0.4  # of the GPU's memory, for vLLM's weights and cache; the rest is training's
SEEDS = 2**31  # vLLM's seeds are below this
COLDEST, WARMEST = 0.01, 2.0  # temperatures that vLLM takes as they are
APART = "leave --sampler out"


class Vllm:
    """Samples as `sampler.sample` does, with weights that `follow` brings.

    dtype: of its weights. decoding: as answers will be drawn. aside: it gives its memory back while it does not sample,
    so that training has it; not where both go on at once.

    Raises:
        TightreinError: vLLM is not installed, cannot start, or does not know how transformers holds this model.
    """

    def __init__(self, policy: Policy, decoding: Decoding, dtype: str, *, aside: bool) -> None:
        check_installed()
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = (
            "0"  # in this process, where weights need no copying to get there
        )
        self._vllm: Any = importlib.import_module("vllm")
        self._aside, self._resting = aside, False
        _check(policy)
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():  # it sets the seeds of this process
            _describe(policy, Path(folder))
            try:
                self._llm = self._vllm.LLM(
                    folder, dtype=dtype, load_format="dummy", logprobs_mode=logprobs_mode(decoding), max_model_len=-1,
                    gpu_memory_utilization=SHARE, enable_sleep_mode=aside, skip_tokenizer_init=not decoding.stop,
                    generation_config="vllm",
                )  # fmt: skip
            except Exception as error:  # whatever keeps it from starting: the GPU, its memory, the architecture
                raise TightreinError(
                    f"vLLM cannot start: {error}", f"mend that, or {APART}, and the model's own code samples"
                ) from error

    def follow(self, policy: Policy) -> None:
        """Gives vLLM the present weights. Nothing may be under way."""
        self._wake()
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights_of(policy)})
        self._llm.reset_prefix_cache()

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], group_size: int, decoding: Decoding,
        generator: torch.Generator | None = None, partner: Any = None, seeds: Tensor | None = None,
        tokenizer: Any = None,
    ) -> Samples:  # fmt: skip
        """See `sampler.sample`; the model only says where the samples go.

        Raises:
            TightreinError: a partner, warmth or experts, of which vLLM knows nothing.
        """
        if partner is not None or decoding.warmth is not None or decoding.experts:
            raise TightreinError("vLLM samples answers in one go, and tells tokens alone", APART)
        seeds = draw_seeds(len(prompts) * group_size, generator) if seeds is None else seeds
        each = [list(prompt) for prompt in prompts for _ in range(group_size)]
        self._wake()
        replies = self._llm.generate(
            [self._vllm.TokensPrompt(prompt_token_ids=prompt) for prompt in each],
            [self._told(decoding, seed) for seed in seeds.tolist()],
            use_tqdm=False,
        )
        if self._aside:
            self._llm.sleep(level=1)
            self._resting = True
        return _samples(each, [reply.outputs[0] for reply in replies], decoding, next(model.parameters()).device)

    def _told(self, decoding: Decoding, seed: int) -> Any:
        """How vLLM is to write one answer."""
        return self._vllm.SamplingParams(
            temperature=decoding.temperature, top_p=decoding.top_p, top_k=decoding.top_k, min_p=decoding.min_p,
            max_tokens=decoding.max_new_tokens, stop_token_ids=sorted(decoding.eos_ids), stop=list(decoding.stop),
            detokenize=bool(decoding.stop), logprobs=0, seed=seed % SEEDS,
        )  # fmt: skip

    def _wake(self) -> None:
        if self._resting:
            torch.cuda.empty_cache()  # what training keeps for later is needed now
            self._llm.wake_up()
        self._resting = False


def check_installed() -> None:
    """Raise TightreinError if there is no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise TightreinError(
            "--sampler vllm needs the Python package 'vllm', which is not installed",
            "pip install vllm    (in an environment of its own, as it brings the PyTorch it was built for)",
        )


def check_decoding(temperature: float, cuts: bool) -> None:
    """Raise TightreinError for what vLLM does not draw as asked, or tells no log-probabilities of.

    cuts: whether unlikely tokens are left out. vLLM tells log-probabilities before it changes anything, or after all:
    those of the tempered distribution, which training computes, are the ones before where the temperature is 1, and the
    ones after where nothing is cut.
    """
    if not COLDEST <= temperature <= WARMEST:
        raise TightreinError(
            f"vLLM samples at temperatures from {COLDEST} to {WARMEST}, not at {temperature}",
            f"give another --temperature, or {APART}",
        )
    if cuts and temperature != 1:
        raise TightreinError(
            "with --top-p, --top-k or --min-p and a temperature, vLLM does not tell log-probabilities of the whole "
            "distribution",
            f"leave --temperature at 1, or --top-p, --top-k and --min-p out, or {APART}",
        )


def logprobs_mode(decoding: Decoding) -> str:
    """Which log-probabilities vLLM is to tell: see `check_decoding`."""
    return "raw_logprobs" if decoding.temperature == 1 else "processed_logprobs"


def weights_of(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """(name, weights) as in the model's folder, one after another; adapters are added in."""
    base = policy.model.get_base_model() if policy.lora else policy.model
    for name, parameter in base.named_parameters():
        if policy.lora and ".lora_" in name:
            continue
        weights, owner = parameter.detach(), name.removesuffix(".base_layer.weight")
        if owner != name:
            (adapter,) = base.get_submodule(owner).active_adapters
            weights = weights + base.get_submodule(owner).get_delta_weight(adapter).detach()
        yield name.replace(".base_layer.", "."), weights


def _check(policy: Policy) -> None:
    if any(type(module).__name__.endswith("TopKRouter") for module in policy.model.modules()):
        raise TightreinError(
            "transformers holds all experts of a layer as one tensor, and vLLM takes them one by one", APART
        )


def _describe(policy: Policy, folder: Path) -> None:
    """A model folder without weights, which `follow` brings."""
    base = policy.model.get_base_model() if policy.lora else policy.model
    config = copy.deepcopy(base.config)
    config.architectures = [type(base).__name__]
    config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def _samples(prompts: list[list[int]], answers: list[Any], decoding: Decoding, device: torch.device) -> Samples:
    """The rows of prompts and vLLM's CompletionOutputs to them."""
    left, left_mask = pad_left(prompts, decoding.pad_id, device)
    tokens = [list(answer.token_ids) for answer in answers]
    width = max(map(len, tokens))
    ids = torch.full((len(tokens), width), decoding.pad_id)
    mask, logp = torch.zeros(ids.shape), torch.zeros(ids.shape)
    for row, (written, answer) in enumerate(zip(tokens, answers, strict=True)):
        count = len(written)
        ids[row, :count], mask[row, :count] = torch.tensor(written), 1.0
        # A stop string may be found tokens later: what came behind it has log-probabilities, and is not in the answer.
        told = zip(written, answer.logprobs[:count], strict=True)
        logp[row, :count] = torch.tensor([step[token].logprob for token, step in told])
    ended = torch.tensor([answer.finish_reason != "length" for answer in answers], device=device)
    return Samples(left, left_mask, ids.to(device), mask.to(device), logp.to(device), ended)
