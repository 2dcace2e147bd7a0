"""Run by each of several processes: the gradients of test_gradients, as they add up, into a file."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from conftest import WORDS, make_llama
from test_gradients import answered, slope

from tightrein.engines.language import processes
from tightrein.engines.language.models import embedded
from tightrein.engines.language.models.policy import Policy

AT_ONCE = (8192, 40)  # tokens: all in one piece, and in several


def gradients(keys):
    tokenizer = embedded.make_tokenizer(WORDS, WORDS)
    policy = Policy(make_llama(len(tokenizer)), tokenizer)
    batch = answered(policy)
    return {(key, most): slope(policy, batch, key, most) for key in keys for most in AT_ONCE}


if __name__ == "__main__":
    processes.join()
    found = gradients(sys.argv[2:])
    if processes.rank() == 0:
        torch.save({"processes": processes.count(), **found}, sys.argv[1])
