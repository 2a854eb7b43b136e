"""Networks whose branches differ."""

import torch


def trained(model):
    """Gives each branch of a network's norms different statistics and affines."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and ("running" in name or "bn" in name or ".1." in name):
            noise = torch.rand_like(tensor)
            positive = any(word in name for word in ("weight", "var", "second"))
            tensor.data.copy_(noise + 0.5 if positive else noise - 0.5)
    return model.eval()
