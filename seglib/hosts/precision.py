"""The precision that a network computes in, and whether a CPU's bf16 is right.

What the hardware has decides; that its kernels compute correctly is tried.
"""

import contextlib
import functools
import warnings
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .devices import describe_gpu

CPU_INFO = Path("/proc/cpuinfo")  # in Linux
# The names that torch and Linux give to the instructions of CPUs that multiply in bf16.
BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16", "svebf16"}


def choose_precision(device: Any, cfg_precision: str = "auto", stored: str | None = None) -> str:
    """The arithmetic for a device ("cuda", "mps", "cpu"): "fp32", "bf16" or "fp16".

    "auto" is a rule on the hardware, never a timing, so that the same machine always chooses alike:
    on CUDA bf16 from compute capability 8.0, else fp16; on MPS fp32; on a CPU bf16 where `cpu_bf16`
    is true, else fp32.

    Args:
        stored: the precision that a network was trained in. "auto" takes it where the device
            computes in it without emulation; elsewhere a warning says what is taken instead.

    Raises:
        ConfigError: an unknown precision, or one that the device cannot do.
    """
    kind = str(device).split(":")[0]
    possible = {"cuda": ("fp32", "bf16", "fp16"), "cpu": ("fp32", "bf16")}.get(kind, ("fp32",))
    if cfg_precision not in ("auto", *possible):
        raise ConfigError(
            f"precision={cfg_precision!r}: {kind} takes 'auto' or {' or '.join(possible)}; "
            "set one of them"
        )
    if cfg_precision == "bf16" and kind == "cuda" and not in_hardware("cuda", "bf16"):
        warnings.warn(
            f"precision='bf16': {describe_gpu()} emulates it, slowly; 'fp16' is faster",
            stacklevel=2,
        )
    if cfg_precision != "auto":
        return cfg_precision
    if stored in possible and in_hardware(kind, stored):
        return stored
    without_bf16 = "fp16" if kind == "cuda" else "fp32"
    chosen = "bf16" if in_hardware(kind, "bf16") else without_bf16
    if stored and stored != chosen:
        warnings.warn(
            f"the network was trained in {stored}, which this {kind} does not compute in hardware: "
            f"it computes in {chosen} here, and masks may differ in single pixels",
            stacklevel=2,
        )
    return chosen


def in_hardware(kind: str, precision: str) -> bool:
    """Whether a kind of device ("cuda", "mps", "cpu") computes in this precision without emulation.

    torch computes in bf16 on every CPU and every GPU, but where the instructions are missing it
    converts each number, which is many times slower than fp32.
    """
    if precision == "fp32":
        return True
    if kind == "cuda":
        import torch

        # torch.cuda.is_bf16_supported() is True on a T4 too, where bf16 is emulated.
        return precision == "fp16" or torch.cuda.get_device_capability()[0] >= 8
    return kind == "cpu" and precision == "bf16" and cpu_bf16()


def cpu_bf16() -> bool:
    """Whether this CPU has bf16 instructions that torch uses, and that compute correctly.

    The instructions are AVX512-BF16 and AMX-BF16 of x86 and the bf16 extensions of Arm. torch uses
    them by oneDNN only, which its builds for macOS lack.
    """
    import torch

    has_instructions = bool(BF16_INSTRUCTIONS & _cpu_features())
    return has_instructions and torch.backends.mkldnn.is_available() and _bf16_agrees_with_fp32()


def _cpu_features() -> set[str]:
    """The names of this CPU's extensions; empty where neither torch nor the system lists them."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        with contextlib.suppress(RuntimeError):
            return {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    # Before torch had such a list: one function for x86, and Linux's own list of x86 and Arm.
    features = set()
    if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        features.add("avx512_bf16")
    with contextlib.suppress(OSError):
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                features |= set(line.partition(":")[2].split())
    return features


@functools.cache
def _bf16_agrees_with_fp32() -> bool:
    """Whether convolutions on the CPU, and their gradients, are the same in bf16 as in fp32; tried
    once.

    Dilated and depthwise convolutions have kernels of their own, which were wrong in some versions
    of torch (pytorch#163347, #169688).
    """
    import torch

    generator = torch.Generator().manual_seed(0)  # torch's own random numbers stay as they are
    channels = 32
    for options in ({"padding": 1}, {"padding": 2, "dilation": 2}, {"padding": 1, "groups": 32}):
        with torch.inference_mode(False):
            image = torch.randn(2, channels, 16, 16, generator=generator, requires_grad=True)
            depth = channels // options.get("groups", 1)
            weight = torch.randn(channels, depth, 3, 3, generator=generator, requires_grad=True)
        try:
            expected = _convolution_and_gradients(image, weight, options, bf16=False)
            results = _convolution_and_gradients(image, weight, options, bf16=True)
        except RuntimeError:  # no such kernel
            return False
        for result, reference in zip(results, expected):
            # bf16 has 8 significant bits: each factor and each result is off by 0.4 % at most.
            if not torch.dist(result, reference) <= 0.01 * torch.linalg.vector_norm(reference):
                return False
    return True


def _convolution_and_gradients(image, weight, options: dict[str, int], bf16: bool) -> list:
    """The output of a convolution, and the gradients of image and weight, float32."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            output = torch.nn.functional.conv2d(image, weight, **options)
        gradients = torch.autograd.grad(output.float().square().sum(), [image, weight])
    return [output.detach().float(), *gradients]
