"""Published checkpoints of other projects, converted without running their code."""

CHECKPOINTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")  # suffixes of published weights
