"""The spectral vocoder as one ONNX graph, its rounds of Griffin-Lim a loop.

The exporter would unroll the rounds and take minutes over them.
"""

import onnx
import torch
from onnx import TensorProto, compose, helper

from soundcrafter.models.spectral import SpectralVocoder
from soundcrafter.onnx.convert import OPSET, to_onnx
from soundcrafter.onnx.graphs import PhaseEnd, PhaseRound, PhaseStart

ROUNDS = "rounds"  # an input with a default, so that fewer rounds may be asked for


def spectral_to_onnx(
    vocoder: SpectralVocoder, example: tuple[torch.Tensor, torch.Tensor]
) -> onnx.ModelProto:
    """A graph from mel [B, 1, T, F], phases [1, T + 2, bins] and rounds to wave [B, N]."""
    mel = vocoder.config.mel
    with torch.no_grad():
        state = PhaseStart(mel)(*example)
    start = to_onnx(
        PhaseStart(mel),
        example,
        ((0, 2), (1,)),
        ("mel", "phases"),
        ("spectrum", "previous", "magnitude", "coverage"),
    )
    round_ = to_onnx(
        PhaseRound(mel),
        state,
        ((0, 1), (0, 1), (0, 1), (1,)),
        ("spectrum_in", "previous_in", "magnitude", "coverage"),
        ("spectrum_out", "previous_out"),
    )
    end = to_onnx(
        PhaseEnd(vocoder),
        (example[0], state[0], state[3]),
        ((0, 2), (0, 1), (1,)),
        ("mel", "found", "coverage"),
        ("wave",),
    )
    return _joined(start, round_, end, vocoder.config.iterations)


def _joined(
    start: onnx.ModelProto, round_: onnx.ModelProto, end: onnx.ModelProto, rounds: int
) -> onnx.ModelProto:
    first, body, last = (
        compose.add_prefix(proto, prefix, rename_inputs=False, rename_outputs=False).graph
        for proto, prefix in ((start, "start_"), (round_, "round_"), (end, "end_"))
    )
    count = helper.make_tensor(ROUNDS, TensorProto.INT64, [], [rounds])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    loop = helper.make_node(
        "Loop",
        [ROUNDS, "true", "spectrum", "previous"],
        ["found", "last_rebuilt"],
        body=_loop_body(body),
    )
    graph = helper.make_graph(
        [*first.node, loop, *last.node],
        "spectral_vocoder",
        [*first.input, helper.make_tensor_value_info(ROUNDS, TensorProto.INT64, [])],
        list(last.output),
        [*first.initializer, count, true, *last.initializer],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=start.ir_version
    )


def _loop_body(graph: onnx.GraphProto) -> onnx.GraphProto:
    """A round as the body of a Loop, which sees `magnitude` and `coverage` of the graph around."""
    values = {value.name: value for value in graph.input}
    going = helper.make_node("Identity", ["going_in"], ["going_out"])
    return helper.make_graph(
        [*graph.node, going],
        "round",
        [
            helper.make_tensor_value_info("round_number", TensorProto.INT64, []),
            helper.make_tensor_value_info("going_in", TensorProto.BOOL, []),
            values["spectrum_in"],
            values["previous_in"],
        ],
        [helper.make_tensor_value_info("going_out", TensorProto.BOOL, []), *graph.output],
        list(graph.initializer),
    )
