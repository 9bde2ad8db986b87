"""Diffusion as functions of tensors and callables, independent of any model."""
