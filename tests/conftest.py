import torch

torch.set_num_threads(1)  # tests share two cores; more threads than cores make them ten times slower
