"""Export of models as ONNX graphs, which `pixellm.runtime` runs without torch."""
