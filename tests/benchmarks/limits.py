"""What the machine can do at most: matrix products and copies. The other figures are shown as a
share of it.
"""

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SIDE = 2048  # of square matrices: the fastest of those tried here
COPIED = 1 << 28  # bytes of an array that fits into no cache


def measure(device: str = "cpu") -> dict[str, float]:
    """The best rates of a few seconds: "fp32" and "bf16" in floating-point operations a second (a
    product of square matrices), "copy" in bytes a second, read and written together.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: nothing was measured")
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = {"copy": 2 * COPIED / best(lambda: target.copy_(source), device)}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        side = SIDE if device == "cpu" else 4 * SIDE
        a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
        rates[name] = 2 * side**3 / best(lambda a=a, b=b: a @ b, device)
    return rates


def best(work: Callable[[], object], device: str, seconds: float = 2.0) -> float:
    """The shortest time of one call, of the calls of so many seconds."""
    times: list[float] = []
    while sum(times) < seconds:
        wait(device)
        begun = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - begun)
    return min(times)


def wait(device: str) -> None:
    """Until a GPU has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def forward_work(network: nn.Module, cfg, sides: tuple[int, int] | None = None) -> float:
    """Floating-point operations of the forward pass of one image of the frame's or these sides,
    counted without doing them; the backward pass takes twice as many. (torch's counter gives too
    many for the backward pass of depthwise convolutions.)
    """
    network = network.train().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(2, cfg.in_channels, *(sides or cfg.height_width), device="meta"))
    return counter.get_total_flops() / 2
