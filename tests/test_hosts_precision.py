"""The precision of a device, and whether the bf16 of a CPU is right."""

import itertools
import time
import types
import warnings

import pytest

from seglib import hosts
from seglib.errors import ConfigError
from tests.machines import gpu

pytestmark = pytest.mark.usefixtures("machine")


@pytest.mark.parametrize(
    "capability, precision",
    [
        ((6, 0), "fp16"),
        ((7, 0), "fp16"),
        ((7, 5), "fp16"),
        ((8, 0), "bf16"),
        ((8, 9), "bf16"),
        ((9, 0), "bf16"),
    ],
)
def test_precision_by_capability(torch, monkeypatch, capability, precision):
    gpu(monkeypatch, torch, capability=capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a: True)
    assert hosts.choose_precision("cuda") == precision


class LikeTorch(types.SimpleNamespace):
    """`torch.cpu` of a version of torch that lists these features, or has no such list."""

    def __init__(self, **features):
        super().__init__()
        if features:
            self.get_capabilities = lambda: {"architecture": "x86_64", "cores": 2, **features}


@pytest.mark.parametrize(
    "features, precision",
    [
        ({"avx512_f": True, "avx512_bf16": True}, "bf16"),
        ({"amx_tile": True, "amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, "fp32"),
        ({"neon": True, "bf16": False, "sve_bf16": False}, "fp32"),
    ],
)
def test_cpu_precision_by_its_instructions(torch, monkeypatch, features, precision):
    monkeypatch.setattr(torch, "cpu", LikeTorch(**features))
    monkeypatch.setattr(hosts.precision, "_bf16_agrees_with_fp32", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert hosts.choose_precision("cpu") == precision
    assert hosts.choose_precision("mps") == "fp32"


@pytest.mark.parametrize(
    "line, precision",
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 wbnoinvd", "bf16"),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", "fp32"),
        ("Features\t: fp asimd i8mm bf16 dgh", "bf16"),
        ("Features\t: fp asimd crc32", "fp32"),
        ("bugs\t\t: bf16", "fp32"),
        (None, "fp32"),
    ],
)
def test_cpu_precision_with_a_torch_that_lists_no_features(
    torch, monkeypatch, tmp_path, line, precision
):
    """Linux lists them itself; elsewhere nothing does, and fp32 is right everywhere."""
    monkeypatch.setattr(torch, "cpu", LikeTorch())
    monkeypatch.setattr(hosts.precision, "CPU_INFO", tmp_path / "cpuinfo")
    if line:
        hosts.precision.CPU_INFO.write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr(hosts.precision, "_bf16_agrees_with_fp32", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert hosts.choose_precision("cpu") == precision


def test_cpu_without_onednn_computes_in_fp32(torch, monkeypatch):
    """Such as torch for macOS: its own bf16 kernels do not use the processor's instructions."""
    monkeypatch.setattr(torch, "cpu", LikeTorch(bf16=True))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert hosts.choose_precision("cpu") == "fp32"


def bf16_cpu(torch, monkeypatch):
    """A CPU with the instructions, whatever the real one has; its kernels are the real ones."""
    monkeypatch.setattr(torch, "cpu", LikeTorch(avx512_bf16=True))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


def test_bf16_kernels_that_agree_are_used(torch, monkeypatch):
    """Also inside `inference_mode`, and without touching torch's random numbers."""
    bf16_cpu(torch, monkeypatch)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with torch.inference_mode():
        assert hosts.choose_precision("cpu") == "bf16"
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kernel", ["plain", "dilated", "depthwise"])
def test_bf16_kernels_with_wrong_results_are_not_used(torch, monkeypatch, kernel):
    """As torch had them for dilated and grouped convolutions."""
    convolve = torch.nn.functional.conv2d

    def wrong(image, weight, **options):
        output = convolve(image, weight, **options)
        of_this_kind = {"dilated": "dilation" in options, "depthwise": "groups" in options}
        of_this_kind["plain"] = not any(of_this_kind.values())
        return (
            output * 1.05 if torch.is_autocast_enabled("cpu") and of_this_kind[kernel] else output
        )

    bf16_cpu(torch, monkeypatch)
    monkeypatch.setattr(torch.nn.functional, "conv2d", wrong)
    assert hosts.choose_precision("cpu") == "fp32"


def test_bf16_kernels_with_wrong_gradients_are_not_used(torch, monkeypatch):
    grad, factors = torch.autograd.grad, itertools.cycle([1, float("nan")])  # fp32, then bf16

    def wrong(output, inputs):
        factor = next(factors)
        return [gradient * factor for gradient in grad(output, inputs)]

    bf16_cpu(torch, monkeypatch)
    monkeypatch.setattr(torch.autograd, "grad", wrong)
    assert hosts.choose_precision("cpu") == "fp32"


def test_bf16_kernels_that_do_not_run_are_not_used(torch, monkeypatch):
    autocast = torch.autocast

    def refuse(device, dtype, enabled):
        if enabled:
            raise RuntimeError("mkldnn_bf16 path needs the cpu support avx512")
        return autocast(device, dtype=dtype, enabled=False)

    bf16_cpu(torch, monkeypatch)
    monkeypatch.setattr(torch, "autocast", refuse)
    assert hosts.choose_precision("cpu") == "fp32"


def test_the_clock_does_not_choose_the_precision(torch, monkeypatch):
    """Under any load the same machine chooses alike, so nothing may look at a clock."""
    for name in ("time", "perf_counter", "monotonic", "process_time"):
        monkeypatch.setattr(time, name, lambda name=name: pytest.fail(f"looked at {name}"))
    assert hosts.choose_precision("cpu") == hosts.choose_precision("cpu")


@pytest.mark.parametrize(
    "device, has_bf16, stored, precision",
    [
        ("cpu", True, "fp32", "fp32"),
        ("cpu", True, "bf16", "bf16"),
        ("cpu", False, "fp32", "fp32"),
        ("cuda", True, "fp32", "fp32"),
        ("cuda", True, "fp16", "fp16"),
        ("cuda", False, "fp16", "fp16"),
        ("mps", False, "fp32", "fp32"),
        ("cpu", True, None, "bf16"),
        ("cpu", False, None, "fp32"),
        ("cuda", False, None, "fp16"),
    ],
)
def test_stored_precision_is_used_again(torch, monkeypatch, device, has_bf16, stored, precision):
    gpu(monkeypatch, torch, capability=(8, 0) if has_bf16 else (7, 5))
    monkeypatch.setattr(hosts.precision, "cpu_bf16", lambda: has_bf16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hosts.choose_precision(device, "auto", stored) == precision


@pytest.mark.parametrize(
    "device, has_bf16, stored, precision",
    [
        ("cpu", False, "bf16", "fp32"),
        ("cpu", True, "fp16", "bf16"),
        ("cuda", False, "bf16", "fp16"),
        ("mps", False, "bf16", "fp32"),
    ],
)
def test_stored_precision_that_the_device_lacks(
    torch, monkeypatch, device, has_bf16, stored, precision
):
    gpu(monkeypatch, torch, capability=(8, 0) if has_bf16 else (7, 5))
    monkeypatch.setattr(hosts.precision, "cpu_bf16", lambda: has_bf16)
    words = f"trained in {stored}, which this {device} .* computes in {precision} here, and masks"
    with pytest.warns(UserWarning, match=words):
        assert hosts.choose_precision(device, "auto", stored) == precision
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the user asks for needs no advice
        assert hosts.choose_precision(device, "fp32", stored) == "fp32"


def test_explicit_precision_is_honoured(torch, monkeypatch):
    gpu(monkeypatch, torch)
    for device, names in (
        ("cuda", ("fp32", "fp16")),
        ("cpu", ("fp32", "bf16")),
        ("mps", ("fp32",)),
    ):
        assert [hosts.choose_precision(device, name) for name in names] == list(names)
    assert hosts.choose_precision(torch.device("cuda:1"), "fp16") == "fp16"
    with pytest.warns(UserWarning, match="Tesla T4, compute capability 7.5, 16.0 GB emulates it"):
        assert hosts.choose_precision("cuda", "bf16") == "bf16"


@pytest.mark.parametrize(
    "device, precision, able",
    [
        ("cpu", "fp16", "fp32 or bf16"),
        ("mps", "fp16", "fp32"),
        ("mps", "bf16", "fp32"),
        ("cuda", "int8", "fp32 or bf16 or fp16"),
    ],
)
def test_impossible_precision(device, precision, able):
    with pytest.raises(ConfigError, match=f"'{precision}': {device} takes 'auto' or {able}; set"):
        hosts.choose_precision(device, precision)
