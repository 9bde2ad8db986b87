"""The tiny model, exported once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(make_once, tiny_model) -> Path:
    """The tiny model as ONNX. Read only."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from soundcrafter.onnx.export import export_onnx

    return make_once("exported", lambda folder: export_onnx(tiny_model, folder))
