"""What every test starts from: JAX as a control run of several rows sets it up, and the same random numbers.

Whichever test uses JAX first, processes must give the same bits; and a test fails on every run or on none.
"""

import os
import random

os.environ["JAX_NUM_CPU_DEVICES"] = str(len(os.sched_getaffinity(0)))
os.environ["PJRT_NPROC"] = "1"
# Most of the time of tests of JAX goes into compiling programs that run once: they are compiled with little care.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
