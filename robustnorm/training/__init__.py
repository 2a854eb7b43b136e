"""AdvProp: a step, an epoch, a loop, in one process or many."""
