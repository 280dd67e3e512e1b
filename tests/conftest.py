import torch
from hypothesis import settings

torch.set_num_threads(1)  # tests share two cores; more threads than cores make them ten times slower
settings.register_profile("deltaw", deadline=None)  # a busy machine is no fault
settings.load_profile("deltaw")
