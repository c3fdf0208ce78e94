"""Pairs of a target and a detection in the masks' graph of a variant with a detector.

onnxruntime can't normalise no rows at all, so that `pixellm.mini.instances` appends one while it is exported, and
leaves it out of the masks. Most targets have one detection: with a second row, what is drawn in boxes costs twice.
"""

import onnx_ir as ir


def drop_spare_pair(model: ir.Model) -> None:
    """Keep the appended row only where it is the only one; a graph without such a row stays as it is."""
    graph = model.graph
    for pad in [node for node in graph if _appends_to_places(node)]:
        places, padded = pad.inputs[0], pad.outputs[0]
        assert places is not None
        size = ir.node("Shape", [places], {"start": 0, "end": 1})
        zero, one = (_constant(graph, f"{padded.name}:{value}", value) for value in (0, 1))
        rows = ir.node("Max", [size.outputs[0], one])
        kept = ir.node("Slice", [padded, zero, rows.outputs[0], zero])
        padded.replace_all_uses_with(kept.outputs[0])
        kept.replace_input_with(0, padded)
        graph.insert_after(pad, [size, rows, kept])
        for total in [node for node in graph if _counts_with_spare(node, places)]:
            total.op_type = "Max"


def _appends_to_places(node: ir.Node) -> bool:
    """Return whether a node appends rows to the places that are not zero."""
    transposed = _producer(node.inputs[0]) if node.op_type == "Pad" else None
    places = _producer(transposed.inputs[0]) if transposed is not None and transposed.op_type == "Transpose" else None
    return places is not None and places.op_type == "NonZero"


def _counts_with_spare(node: ir.Node, places: ir.Value) -> bool:
    """Return whether a node adds 1 to the number of `places`: 1 + Squeeze(Shape(places))."""
    if node.op_type != "Add":
        return False
    squeezed = [own for value in node.inputs if (own := _producer(value)) is not None and own.op_type == "Squeeze"]
    sizes = [_producer(own.inputs[0]) for own in squeezed]
    return any(size is not None and size.op_type == "Shape" and size.inputs[0] is places for size in sizes)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _constant(graph: ir.Graph, name: str, value: int) -> ir.Value:
    held = ir.Value(name=name, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
    held.const_value = ir.tensor([value], dtype=ir.DataType.INT64, name=name)
    graph.initializers[name] = held
    return held
