"""JAX as a control run sets it up, whichever test uses it first: other processes must give the same bit for bit."""

import os

os.environ["JAX_NUM_CPU_DEVICES"] = str(len(os.sched_getaffinity(0)))
os.environ["PJRT_NPROC"] = "1"
