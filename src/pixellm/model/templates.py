"""Prompt templates as settings of `PixelLMProcessor`."""

# SmolLM2, Qwen and others.
CHATML = {
    "system": "Answer with the masks of what you name.",
    "prefix": "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<image>\n",
    "prompt": "{question}<|im_end|>\n<|im_start|>assistant\n",
    "answer": "{answer}<|im_end|>",
    "control_tokens": ["<|im_start|>", "<|im_end|>"],
}
# LLaVA's v1, with which the released weights were trained; it needs the tokens `<im_start>` and `<im_end>`.
VICUNA = {
    "system": (
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions."
    ),
    "prefix": "<s>{system} USER: <im_start><image><im_end>",
    "prompt": "{question} ASSISTANT:",
    "answer": "{answer}</s>",
    "control_tokens": ["<s>", "</s>", "<unk>", "<im_start>", "<im_end>"],
    "strip_text": True,
}
IMAGE_MARKERS = ("<im_start>", "<im_end>")
