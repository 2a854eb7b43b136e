"""AdvProp training: a step, an epoch and a loop, in one process or many."""
