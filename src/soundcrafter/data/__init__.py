"""Recordings and captions: manifest, draws, augmentation, encoded latents."""
