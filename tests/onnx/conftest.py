"""The tiny model, exported once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(tiny_model, tmp_path_factory) -> Path:
    """The tiny model as ONNX. Read only."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from soundcrafter.onnx.export import export_onnx

    folder = tmp_path_factory.mktemp("onnx") / "tiny"
    export_onnx(tiny_model, folder)
    return folder
