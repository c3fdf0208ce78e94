"""PyTorch model → ONNX graphs whose weights lie in one file beside them.

Graphs hold no trained values: each is a tensor of the weights file, so that a graph serves any weights of its shapes.
"""

import tempfile
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from pixellm.graphs.browser import OWNER, swap, write_unpacked
from pixellm.graphs.modules import (
    READ_BY_LANGUAGE,
    SIZE,
    EncodeGraph,
    LanguageGraph,
    MaskGraph,
    RefineGraph,
    named_tensors,
)
from pixellm.graphs.pairs import drop_spare_pair
from pixellm.graphs.translations import translations
from pixellm.imaging.prompt_region import INPUTS, SIDE
from pixellm.mini.modeling import ClassifiedImages, MiniForConditionalGeneration
from pixellm.mini.refiner import Refiner
from pixellm.model import PixelLMForConditionalGeneration, PixelLMProcessor
from pixellm.model.modeling import IMAGE_TOKEN_ID
from pixellm.model.states import EncodedImages
from pixellm.runtime.manifest import (
    ALIGNMENT,
    ENCODE,
    LANGUAGE,
    MANIFEST,
    MASKS,
    REFINE,
    WEIGHTS,
    Kind,
    Manifest,
    Precision,
    TensorPlace,
)
from pixellm.runtime.optimised import optimise_graphs
from pixellm.runtime.packing import BLOCK, write_weights

BITS: dict[str, int] = {"int8": 8, "int4": 4}
FOLDED_BYTES = 1 << 14  # larger constants are computed at run time, else the graphs become large
REGION_INPUTS = ("dense", "points", "labels", "boxes")  # fields of `PromptedRegion`
EXAMPLE_ROWS, EXAMPLE_WIDTH, EXAMPLE_PAST = 2, 3, 5  # all different, else the exporter takes them for one size


def export(
    model: PixelLMForConditionalGeneration, processor: PixelLMProcessor, out: Path, precision: Precision = "float32"
) -> Manifest:
    """Write the graphs, weights, settings and the manifest of a model into the directory `out`, which must exist.

    Args:
        model: in fp32.
        processor: its processor.
        out: directory.
        precision: of the language model's matrices; all else is fp32, with the token embeddings in fp16.

    Raises:
        ValueError: the model has other inputs than an image's square (a base of `pixellm init`, LISA), or its language
            model is of another family than Llama.
    """
    _expect_square(model, processor)
    model.eval()
    graphs, manifest = _graphs(model, processor.image_processor.image_size, precision)
    state = model.state_dict()
    places = _place(list(graphs.values()), state.keys())
    manifest = replace(manifest, tensors=list(places.values()))
    write_weights(out / WEIGHTS, manifest.tensors, lambda key: state[key].numpy())
    for name, graph in graphs.items():
        ir.save(graph, out / name)
    _optimise(out / LANGUAGE, places)
    optimise_graphs(out)
    processor.save_pretrained(out)
    manifest.write(out / MANIFEST)
    if precision != "float32":
        write_unpacked(out)
    return manifest


def _expect_square(model: PixelLMForConditionalGeneration, processor: object) -> None:
    """Raise a ValueError for a model that reads more of an image than the square of `PixelLMImageProcessor`."""
    own = isinstance(processor, PixelLMProcessor)
    if not own or set(processor.image_processor.model_input_names) != {"pixel_values", SIZE}:
        raise ValueError(
            f"expected a PixelLM with a vision encoder of its own, got a {type(model).__name__}. LISA, and models that "
            "`pixellm init` made of another vision-language model, can't be exported yet: they answer with torch."
        )


def _graphs(
    model: PixelLMForConditionalGeneration, size: int, precision: Precision
) -> tuple[dict[str, ir.Model], Manifest]:
    """Trace the graphs of a model that reads images of a side `size`; return them by file, and the manifest."""
    pixels, hw = torch.zeros(1, 3, size, size), torch.tensor([[size, size]])
    images = model.encode_images(pixels, hw)
    names, tensors = zip(*named_tensors(images), strict=True)
    states = torch.zeros(len(model.config.codebook_ids), model.config.text_config.hidden_size)
    presence = model.presence_scores(images, states, torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, 1))
    results = ["logits"] if presence is None else ["logits", "presence"]
    masks = _trace(MaskGraph(model, images), (states, *tensors), ["states", *names], results)
    drop_spare_pair(masks)
    used = {value.name for value in masks.graph.inputs}
    refined = _refined_maps(images, names, tensors)
    given = [name for name in names if name in (*READ_BY_LANGUAGE, *used, *refined) and name != SIZE]
    encode = _trace(EncodeGraph(model, given), (pixels, hw), ["pixel_values", SIZE], given)
    language = _trace_language(model, images.conditioning)
    if precision != "float32":
        words = model.get_input_embeddings().weight
        tables = {OWNER + key for key, value in model.state_dict().items() if value.data_ptr() == words.data_ptr()}
        for graph in (encode, language):
            _halve_rows(graph.graph, tables)
        _quantise(language, BITS[precision])
    graphs = {ENCODE: encode, LANGUAGE: language, MASKS: masks}
    if isinstance(model, MiniForConditionalGeneration) and model.refiner is not None:
        channels = [tensors[names.index(name)].shape[1] for name in refined]
        graphs[REFINE] = _trace_refiner(model.refiner, refined, channels)
    text = model.config.text_config
    manifest = Manifest(
        precision=precision,
        image_tensors=given,
        mask_inputs=[name for name in names if name in used],
        refine_inputs=refined,
        has_presence=presence is not None,
        lookback=model.lookback,
        codebook_ids=list(model.config.codebook_ids),
        own_state=model.config.own_state,
        num_layers=text.num_hidden_layers,
        num_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        width=text.hidden_size,
        max_positions=text.max_position_embeddings,
        peak_share=model.peak_share,
        default_sampling=model.default_sampling,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tensors=[],
    )
    return graphs, manifest


def _trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    dynamic: Sequence[Any] | None = None,
) -> ir.Model:
    """Trace a module; operators on constants are computed now, but none on weights."""
    # With gradients the pixel decoder takes its targets together: without, it asks for their number.
    with torch.enable_grad():
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic,
            custom_translation_table=translations(),
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    _simplify(program.model, set(module.state_dict()))
    return program.model


def _simplify(model: ir.Model, weights: Container[str]) -> None:
    """Compute what depends on constants alone; drop inputs that nothing reads, and the traces of the source."""

    def fold(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    optimizer.inline(model)
    optimizer.fold_constants(model, output_size_limit=FOLDED_BYTES, should_fold=fold)
    optimizer.remove_unused_nodes(model)
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def _trace_language(model: PixelLMForConditionalGeneration, conditioning: Tensor | None) -> ir.Model:
    text, rows, width, past = model.config.text_config, EXAMPLE_ROWS, EXAMPLE_WIDTH, EXAMPLE_PAST
    layers, heads = text.num_hidden_layers, text.num_key_value_heads
    read = torch.zeros(rows, 1 if conditioning is None else conditioning.shape[1])
    inputs = (
        torch.zeros(rows, width, dtype=torch.long),
        torch.full((rows, model.lookback), IMAGE_TOKEN_ID),
        torch.zeros(rows, 4, text.hidden_size),
        read,
        torch.zeros(rows, 1, width, past + width),
        torch.arange(width).expand(rows, -1).clone(),
        torch.zeros(rows, dtype=torch.long),
        *[torch.zeros(rows, heads, past, text.head_dim) for _ in range(2 * layers)],
    )
    auto = torch.export.Dim.AUTO
    free = [{0: auto, 1: auto}, {0: auto}, {0: auto, 1: auto}, {0: auto}, {0: auto, 2: auto, 3: auto}]
    free += [{0: auto, 1: auto}, {0: auto}, tuple({0: auto, 2: auto} for _ in range(2 * layers))]
    numbers = range(2 * layers)
    names = ["input_ids", "earlier_ids", "image_tokens", "conditioning", "bias", "position_ids", "last"]
    results = ["logits", "codebook", *[f"present.{i}" for i in numbers]]
    return _trace(LanguageGraph(model), inputs, [*names, *[f"past.{i}" for i in numbers]], results, tuple(free))


def _refined_maps(images: EncodedImages, names: Sequence[str], tensors: Sequence[Tensor]) -> list[str]:
    """Return the names of the maps that corrections read; those that others read, too, are given once."""
    if not isinstance(images, ClassifiedImages):
        return []
    return [names[[other is map_ for other in tensors].index(True)] for map_ in images.refine_maps]


def _trace_refiner(refiner: Refiner, names: Sequence[str], channels: Sequence[int]) -> ir.Model:
    """Trace the graph of corrections, for any number of points and maps of any size."""
    # The sizes of the example are all different, see EXAMPLE_ROWS.
    maps = [torch.zeros(1, count, 7 + 2 * at, 8 + 2 * at) for at, count in enumerate(channels)]
    inputs = (
        torch.zeros(1, INPUTS, SIDE, SIDE),
        torch.zeros(1, EXAMPLE_WIDTH, 2),
        torch.zeros(1, EXAMPLE_WIDTH, dtype=torch.long),
        torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(len(maps), 1),
        *maps,
    )
    auto = torch.export.Dim.AUTO
    free = [{}, {1: auto}, {1: auto}, {}, tuple({2: auto, 3: auto} for _ in maps)]
    return _trace(RefineGraph(refiner), inputs, [*REGION_INPUTS, *names], ["logits"], tuple(free))


def _quantise(model: ir.Model, bits: int) -> None:
    """Replace products with matrices by those with blocks of integers."""
    graph = model.graph
    model.opset_imports["com.microsoft"] = 1
    for node in list(graph):
        weight = _linear_weight(node)
        if weight is not None and _sides(weight)[1] % BLOCK == 0:
            _replace_product(graph, node, weight, bits)
    for node in [n for n in graph if n.op_type == "Transpose" and not any(o.uses() for o in n.outputs)]:
        graph.remove(node, safe=True)


def _linear_weight(node: ir.Node) -> ir.Value | None:
    """Return the matrix (N, K) of a linear layer without bias, or None for another node."""
    if node.op_type == "Gemm" and len(node.inputs) == 2 and node.attributes.get_int("transB", 0):
        return _weight(node.inputs[1])
    transposed = node.inputs[1].producer() if node.op_type == "MatMul" else None
    return _weight(transposed.inputs[0]) if transposed is not None and transposed.op_type == "Transpose" else None


def _weight(value: ir.Value | None) -> ir.Value | None:
    """Return the value if it is a matrix of floats that the graph holds, else None."""
    held = value is not None and value.is_initializer() and value.const_value.dtype == ir.DataType.FLOAT
    return value if held and len(_sides(value)) == 2 else None


def _sides(value: ir.Value) -> list[int]:
    """Return the shape of a tensor that a graph holds."""
    return [int(side) for side in value.shape or ()]


def _halve_rows(graph: ir.Graph, tables: Container[str]) -> None:
    """Store tables whose rows are looked up in fp16, and convert the rows."""
    for gather in [node for node in graph if node.op_type == "Gather" and node.inputs[0].name in tables]:
        table = gather.inputs[0]
        half = _initializer(graph, f"{table.name}:float16", ir.DataType.FLOAT16, _sides(table))
        rows = ir.node("Gather", [half, gather.inputs[1]], {"axis": 0})
        converted = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
        swap(graph, gather, [rows, converted])


def _replace_product(graph: ir.Graph, product: ir.Node, weight: ir.Value, bits: int) -> None:
    outputs, width = _sides(weight)
    blocks = width // BLOCK
    stored = _initializer(graph, f"{weight.name}:blocks{bits}", ir.DataType.UINT8, (outputs, blocks, BLOCK * bits // 8))
    scales = _initializer(graph, f"{weight.name}:scales{bits}", ir.DataType.FLOAT, (outputs, blocks))
    attributes = {"K": width, "N": outputs, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    new = ir.node("MatMulNBits", [product.inputs[0], stored, scales], attributes, domain="com.microsoft")
    swap(graph, product, [new])


def _initializer(graph: ir.Graph, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
    """Return the initializer of a name, made if there is none; its tensor follows in `_place`."""
    if name not in graph.initializers:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        value.const_value = ir.ExternalTensor(WEIGHTS, 0, 0, dtype, shape=ir.Shape(shape), name=name, base_dir="")
        graph.initializers[name] = value
    return graph.initializers[name]


def _optimise(path: Path, places: Mapping[str, TensorPlace]) -> None:
    """Replace a graph by the one that onnxruntime makes of it at each opening, which takes a second.

    Only for a graph whose weights stay as they are: those of convolutions and transposed matrices become others.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(temporary) / path.name)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        optimised = ir.load(options.optimized_model_filepath)
        for name, value in optimised.graph.initializers.items():
            assert value.const_value is not None
            value.const_value = (
                _stored(name, places[name]) if name in places else ir.tensor(value.const_value.numpy(), name=name)
            )
        ir.save(optimised, path)


def _place(models: Sequence[ir.Model], keys: Container[str]) -> dict[str, TensorPlace]:
    """Give each weight of the graphs its place in the weights file; graphs that share one share its place."""
    places: dict[str, TensorPlace] = {}
    end = 0
    for model in models:
        for name, value in list(model.graph.initializers.items()):
            source, _, kind = name.removeprefix(OWNER).partition(":")
            if source not in keys:  # a constant
                continue
            if not value.uses():
                del model.graph.initializers[name]
                continue
            if name not in places:
                dtype, shape = value.const_value.dtype, tuple(value.const_value.shape)
                stored = cast("Kind", kind or "plain")
                places[name] = TensorPlace(source, stored, shape, np.dtype(dtype.numpy()).name, end)
                end += -(-places[name].nbytes // ALIGNMENT) * ALIGNMENT
            value.const_value = _stored(name, places[name])
    return places


def _stored(name: str, place: TensorPlace) -> ir.ExternalTensor:
    """Return the tensor that lies at a place of the weights file."""
    dtype, shape = ir.DataType.from_numpy(np.dtype(place.dtype)), ir.Shape(place.shape)
    return ir.ExternalTensor(WEIGHTS, place.offset, place.nbytes, dtype, shape=shape, name=name, base_dir="")
