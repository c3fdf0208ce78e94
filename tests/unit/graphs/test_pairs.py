"""Pairs of targets and detections: the row that the exporter needs is there only where there is no other."""

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from pixellm.graphs.pairs import drop_spare_pair

# As torch.onnx writes `F.pad(chosen.nonzero(), (0, 0, 0, 1))` and an array of as many rows.
GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
pairs (bool[1, 5] chosen) => (int64[n, 2] read, float[n, 3] rows)
<int64 one = {1}, int64[1] first = {0}, int64[4] pads = {0, 0, 1, 0}, int64[1] width = {3}, float zero = {0}>
{
    places = NonZero (chosen)
    pairs = Transpose <perm = [1, 0]> (places)
    padded = Pad <mode = "constant"> (pairs, pads)
    read = Identity (padded)
    shape = Shape <start = 0, end = 1> (pairs)
    count = Squeeze (shape)
    total = Add (one, count)
    length = Unsqueeze (total, first)
    size = Concat <axis = 0> (length, width)
    rows = Expand (zero, size)
}
"""


@pytest.mark.parametrize("places", [[], [3], [0, 2, 4]])
def test_rows(places: list[int]):
    model = ir.serde.deserialize_model(onnx.parser.parse_model(GRAPH))
    drop_spare_pair(model)
    session = onnxruntime.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    chosen = np.zeros((1, 5), dtype=bool)
    chosen[0, places] = True
    read, rows = session.run(None, {"chosen": chosen})
    assert np.array_equal(read, [[0, place] for place in places or [0]])
    assert np.shape(rows) == (max(1, len(places)), 3)
