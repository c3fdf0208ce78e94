"""Answers without torch: onnxruntime, NumPy and tokenizers run the graphs that `pixellm.graphs` exports."""
