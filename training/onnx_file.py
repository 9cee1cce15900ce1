"""What every ONNX file of ours has in common, whichever exporter made it."""

from __future__ import annotations

from pathlib import Path

import onnx

from digits.contract import CLASSES, SIDE
from digits.errors import ExportError


def write_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Names input and output as the contract does, drops the exporter's notes, checks, and writes.

    Raises:
        ExportError: the model does not take uint8 `[N, 28, 28]`, or does not give float32 `[N, 10]`.
    """
    graph = model.graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise ExportError(f"{path.name}: expected one input and one output, got {graph.input} and {graph.output}")
    _rename(graph, graph.input[0].name, "images")
    _rename(graph, graph.output[0].name, "probabilities")
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
        del value.metadata_props[:]
    _expect(graph.input[0], onnx.TensorProto.UINT8, [SIDE, SIDE])
    _expect(graph.output[0], onnx.TensorProto.FLOAT, [CLASSES])
    del graph.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]  # torch writes the source lines of the machine that exported
        node.doc_string = ""
    del graph.value_info[:]  # shapes inside the graph follow from its ends; the check below infers them
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output):
        if value.name == old:
            value.name = new


def _expect(value: onnx.ValueInfoProto, element: int, shape: list[int]) -> None:
    tensor = value.type.tensor_type
    found = [dimension.dim_value for dimension in tensor.shape.dim[1:]]
    if tensor.elem_type != element or found != shape:
        raise ExportError(
            f"ONNX {value.name}: expected element type {element} and shape [N, {shape}], got {tensor.elem_type} and "
            f"[N, {found}]"
        )
