import torch

# The tests' networks are small: a second thread costs more than it gives.
torch.set_num_threads(1)
