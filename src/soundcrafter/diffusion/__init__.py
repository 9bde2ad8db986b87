"""Diffusion as functions of tensors and callables; no model is known here."""
