"""Recognising folders of quantized weights, which are not read."""

import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from recallm_jax.runtime.errors import UserError

# The calls by which transformers makes plain weights of a method's; others have no such way.
_CALLED = "AutoModelForCausalLM.from_pretrained({!r}).dequantize().save_pretrained('plain')"
_LOADED = (
    "AutoModelForCausalLM.from_pretrained({!r}, quantization_config=%s(dequantize=True))"
    ".save_pretrained('plain')"
)
_WAYS = {
    "bitsandbytes": _CALLED,
    "higgs": _CALLED,
    "fp8": _LOADED % "FineGrainedFP8Config",
    "mxfp4": _LOADED % "Mxfp4Config",
    "compressed-tensors": _LOADED % "CompressedTensorsConfig",
}
# The keys of config.json, with the method that writes them without naming itself.
_CONFIGS = {
    "quantization_config": "bitsandbytes",
    "compression_config": "compressed-tensors",
    "quantization": "MLX",
}
# Its tensors have the names of those of compressed-tensors.
_MODELOPT_FILE = "hf_quant_config.json"
# The ends of names of tensors that only quantized weights have, with their method.
_SUFFIXES = {
    ".SCB": "bitsandbytes (int8)",
    ".weight_format": "bitsandbytes (int8)",
    ".absmax": "bitsandbytes (4 bits)",
    ".quant_map": "bitsandbytes (4 bits)",
    ".quant_state": "bitsandbytes (4 bits)",
    ".nested_absmax": "bitsandbytes (4 bits)",
    ".nested_quant_map": "bitsandbytes (4 bits)",
    ".weight_scale_inv": "fp8",
    ".weight_scale": "compressed-tensors",
    ".input_scale": "compressed-tensors",
    ".weight_packed": "compressed-tensors",
    ".qweight": "gptq or awq",
    ".qzeros": "gptq or awq",
    ".g_idx": "gptq",
    ".scales": "MLX",
}


def check_config(fields: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Refuse a folder whose config.json says that its weights are quantized.

    Raises:
      UserError: names the method, and the way to plain weights.
    """
    for name, method in _CONFIGS.items():
        settings = fields.get(name)
        if settings:
            stated = settings.get("quant_method") if isinstance(settings, dict) else None
            raise _refusal(folder, stated or method, f"{name} of its config.json")


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder with the file in which NVIDIA's Model Optimizer describes its weights.

    Raises:
      UserError: names the method, and the way to plain weights.
    """
    if (pathlib.Path(folder) / _MODELOPT_FILE).exists():
        raise _refusal(folder, "modelopt", _MODELOPT_FILE)


def check_tensors(names: Collection[str], folder: str | os.PathLike[str]) -> None:
    """Refuse a folder with tensors that only quantized weights have.

    Raises:
      UserError: names the method, a tensor, and the way to plain weights.
    """
    # GPTQ and AWQ have scales as well, so they come first.
    for suffix, method in _SUFFIXES.items():
        for name in sorted(names):
            if name.endswith(suffix) or f"{suffix}." in name:
                raise _refusal(folder, method, f"tensor {name!r}")


def _refusal(folder: str | os.PathLike[str], method: str, evidence: str) -> UserError:
    message = (
        f"{folder} holds weights quantized by {method} ({evidence}), which are not read: fetch the "
        "checkpoint that they were made from"
    )
    way = _WAYS.get(method.split(" ")[0])
    if way is not None:
        message += f", or save a plain copy with transformers: {way.format(os.fspath(folder))}"
    return UserError(message)
