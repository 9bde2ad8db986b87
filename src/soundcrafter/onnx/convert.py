"""Torch modules to ONNX graphs."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from soundcrafter.files import one_line

OPSET, IR_VERSION = 18, 8  # of one release of ONNX, so that older runtimes read the files
_LEAST_HALVED = 4096  # values; smaller tensors are no weight worth the rounding


def to_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    dynamic: Sequence[Sequence[int]],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Trace a module. `dynamic`: the dimensions of each input that may have any size.

    Raises ValueError for a module with an operation that ONNX lacks.
    """
    shapes = tuple(dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for dims in dynamic)
    try:
        with torch.no_grad(), quiet("torch.onnx"):
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"cannot be exported: {one_line(error)}") from None
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # traces of this machine's source files
    del proto.graph.value_info[:]
    proto.ir_version = IR_VERSION
    return proto


def half_weights(proto: onnx.ModelProto, keep: Sequence[str] = ()) -> None:
    """Store the weights in float16, in place; they are computed with in float32.

    Tensors whose names end with one of `keep` stay as they are.
    """
    graph, casts = proto.graph, []
    for tensor in list(graph.initializer):
        weights = numpy_helper.to_array(tensor)
        if weights.dtype != np.float32 or weights.size < _LEAST_HALVED:
            continue
        if tensor.name.endswith(tuple(keep)):
            continue
        name = tensor.name
        graph.initializer.remove(tensor)
        stored = numpy_helper.from_array(weights.astype(np.float16), f"{name}_half")
        graph.initializer.append(stored)
        casts.append(helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Without the warnings of a library, whose logger has that name: they are not the user's."""
    logger: Any = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
