import os

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # before numpy is imported, and for every process that a test starts

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)  # tests share two cores; more threads than cores make them ten times slower
settings.register_profile("deltaw", deadline=None)  # a busy machine is no fault
settings.load_profile("deltaw")
