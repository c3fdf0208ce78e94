"""Extras of pyproject.toml: which one brings a package that is not installed."""

# Top-level modules → the extra that they belong to; all others belong to `train`.
EXTRAS = {
    **dict.fromkeys(("accelerate", "google", "sentencepiece", "timm", "torch", "torchvision"), "torch"),
    "transformers": "torch",
    **dict.fromkeys(("cv2", "scipy", "skimage", "supervision"), "export"),
    **dict.fromkeys(("onnx", "onnx_ir", "onnxscript"), "onnx"),
    **dict.fromkeys(("openai", "pyarrow"), "eval"),
    **dict.fromkeys(("aiohttp", "datasketch", "ijson", "py3langid", "tenacity"), "muse"),
    **dict.fromkeys(("cachetools", "fastapi", "h11", "multipart", "prometheus_client", "python_multipart"), "serve"),
    **dict.fromkeys(("sse_starlette", "uvicorn", "werkzeug"), "serve"),
    **dict.fromkeys(("mcp", "mcp_types"), "mcp"),
    "ray": "ray",
    "torchao": "quant",
}
DEFAULT = "train"
OTHERS = {"cvat_sdk": "cvat-sdk[masks]"}  # of no extra: modules → what to install


def extra_of(module: str) -> str:
    """Return the extra that brings a module; `module` may be inside a package."""
    return EXTRAS.get(module.partition(".")[0], DEFAULT)


def missing_package(error: ModuleNotFoundError) -> ValueError | None:
    """Return the error for users where a package of an extra is missing; None where a module of ours is.

    An error without a name, or of a module of pixellm itself, is a fault of the installation.
    """
    package = (error.name or "").partition(".")[0]
    if not package or package == "pixellm":
        return None
    wanted = OTHERS.get(package) or f"pixellm[{extra_of(package)}]"
    return ValueError(f"expected the package {package}, got none. Install it: pip install '{wanted}'")
