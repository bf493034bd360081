"""Nemotron-H: a hybrid Mamba-2 / attention / mixture-of-experts language model in plain PyTorch."""
