"""Published checkpoints of other projects, converted without running their code."""
