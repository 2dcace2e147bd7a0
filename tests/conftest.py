"""JAX as a control run of several rows sets it up, whichever test uses it first: processes must give the same bits."""

import os

os.environ["JAX_NUM_CPU_DEVICES"] = str(len(os.sched_getaffinity(0)))
os.environ["PJRT_NPROC"] = "1"
