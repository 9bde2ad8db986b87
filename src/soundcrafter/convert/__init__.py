"""Foreign checkpoints: found, checked, read without running code."""
