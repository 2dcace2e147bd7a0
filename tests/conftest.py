"""What every test starts from: JAX as a control run of several rows sets it up, and the same random numbers.

Whichever test uses JAX first, processes must give the same bits; and a test fails on every run or on none.
"""

import os
import random

os.environ["JAX_NUM_CPU_DEVICES"] = str(len(os.sched_getaffinity(0)))
os.environ["PJRT_NPROC"] = "1"

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
