"""The tiny model and its distilled U-Net, exported once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(distilled, tmp_path_factory) -> Path:
    """The tiny model with its distilled U-Net as ONNX. Read only."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from soundcrafter.onnx.export import export_onnx

    folder = tmp_path_factory.mktemp("onnx") / "tiny"
    export_onnx(distilled, folder)
    return folder
