"""Prompt template of ChatML language models (SmolLM2 and others) as settings of `PixelLMProcessor`."""

CHATML = {
    "system": "Answer with the masks of what you name.",
    "prefix": "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<image>\n",
    "prompt": "{question}<|im_end|>\n<|im_start|>assistant\n",
    "answer": "{answer}<|im_end|>",
    "control_tokens": ["<|im_start|>", "<|im_end|>"],
}
