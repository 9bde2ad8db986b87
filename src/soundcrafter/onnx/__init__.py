"""Models as ONNX: a runtime that needs no torch, and the export that it reads."""

from soundcrafter.onnx.runtime import OnnxSoundCrafter

__all__ = ["OnnxSoundCrafter"]
