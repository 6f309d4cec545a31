"""Published peaks of usual GPUs, with their sources. Dense rates, without sparsity.

Rates and bandwidths are decimal as published; caches are binary. ``link_bytes_per_s`` is
what one GPU sends in one direction over its fastest published interconnect. What the maker does
not publish is None. A measured ceiling is always better than one of these.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from membench.errors import UsageError, shown, suggestion

MAX_DEVICES = 2**16
_MAX_DIGITS = 20
_MIB = 2**20
_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Entry:
    """One GPU. ``flops_per_s`` by dtype; float32 without tensor cores, tfloat32 with."""

    key: str
    name: str
    device_name: str  # a regular expression that is all of its CUDA device name but the maker's
    flops_per_s: Mapping[str, float]
    memory_bytes_per_s: float
    memory_bytes: float
    cache_bytes: int | None
    link_bytes_per_s: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Hardware:
    """So many devices of one kind, as in ``h100x8``."""

    entry: Entry
    count: int = 1

    @property
    def name(self) -> str:
        return self.entry.key if self.count == 1 else f"{self.entry.key}x{self.count}"


def _rates(half: float, tfloat32: float, float32: float) -> dict[str, float]:
    """TFLOP/s to FLOP/s by dtype; bfloat16 and float16 run at the same rate on all of these."""
    return {
        "bfloat16": half * 1e12,
        "float16": half * 1e12,
        "tfloat32": tfloat32 * 1e12,
        "float32": float32 * 1e12,
    }


_A100 = ("NVIDIA A100 Tensor Core GPU Datasheet", "NVIDIA A100 Tensor Core GPU Architecture whitepaper (40 MB L2)")
_H100 = ("NVIDIA H100 Tensor Core GPU Datasheet (with sparsity, halved)", "NVIDIA H100 whitepaper (50 MB L2)")
_PCIE_GEN4 = "link: PCIe Gen4 x16, 64 GB/s both ways"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        key="a100-40gb",
        name="NVIDIA A100 SXM4 40GB",
        device_name=r"A100-SXM4?-40GB",
        flops_per_s=_rates(312, 156, 19.5),
        memory_bytes_per_s=1.555e12,
        memory_bytes=40e9,
        cache_bytes=40 * _MIB,
        link_bytes_per_s=300e9,
        sources=_A100,
    ),
    Entry(
        key="a100-80gb",
        name="NVIDIA A100 SXM4 80GB",
        device_name=r"A100-SXM4?-80GB",
        flops_per_s=_rates(312, 156, 19.5),
        memory_bytes_per_s=2.039e12,
        memory_bytes=80e9,
        cache_bytes=40 * _MIB,
        link_bytes_per_s=300e9,
        sources=_A100,
    ),
    Entry(
        key="h100",
        name="NVIDIA H100 SXM5 80GB",
        device_name=r"H100 80GB HBM3",
        flops_per_s=_rates(989.4, 494.7, 66.9),
        memory_bytes_per_s=3.35e12,
        memory_bytes=80e9,
        cache_bytes=50 * _MIB,
        link_bytes_per_s=450e9,
        sources=_H100,
    ),
    Entry(
        key="h100-pcie",
        name="NVIDIA H100 PCIe 80GB",
        device_name=r"H100 PCIe",
        flops_per_s=_rates(756, 378, 51),
        memory_bytes_per_s=2.0e12,
        memory_bytes=80e9,
        cache_bytes=50 * _MIB,
        link_bytes_per_s=64e9,
        sources=(*_H100, "link: PCIe Gen5 x16, 128 GB/s both ways; an NVLink bridge is optional"),
    ),
    Entry(
        key="h200",
        name="NVIDIA H200 SXM 141GB",
        device_name=r"H200",
        flops_per_s=_rates(989.4, 494.7, 66.9),
        memory_bytes_per_s=4.8e12,
        memory_bytes=141e9,
        cache_bytes=None,
        link_bytes_per_s=450e9,
        sources=("NVIDIA H200 Tensor Core GPU Datasheet (with sparsity, halved)",),
    ),
    Entry(
        key="b200",
        name="NVIDIA B200 SXM 180GB (HGX, 1000 W)",
        device_name=r"B200",
        flops_per_s=_rates(2250, 1100, 80),
        memory_bytes_per_s=8.0e12,
        memory_bytes=180e9,
        cache_bytes=126 * _MIB,
        link_bytes_per_s=900e9,
        sources=(
            "NVIDIA Blackwell Architecture Technical Brief (HGX B200)",
            "NVIDIA DGX B200 Datasheet (1,440 GB in 8 GPUs)",
            "CUDA Blackwell Tuning Guide (126 MB L2)",
        ),
    ),
    Entry(
        key="l40s",
        name="NVIDIA L40S 48GB",
        device_name=r"L40S",
        flops_per_s=_rates(362.05, 183, 91.6),
        memory_bytes_per_s=0.864e12,
        memory_bytes=48e9,
        cache_bytes=None,
        link_bytes_per_s=32e9,
        sources=("NVIDIA L40S Datasheet", _PCIE_GEN4),
    ),
    Entry(
        key="rtx4090",
        name="NVIDIA GeForce RTX 4090 24GB",
        device_name=r"GeForce RTX 4090",
        flops_per_s=_rates(165.2, 82.6, 82.6),
        memory_bytes_per_s=1.008e12,
        memory_bytes=24e9,
        cache_bytes=72 * _MIB,
        link_bytes_per_s=32e9,
        sources=("NVIDIA Ada GPU Architecture whitepaper, appendix A (half precision with fp32 sums)", _PCIE_GEN4),
    ),
    Entry(
        key="mi300x",
        name="AMD Instinct MI300X 192GB",
        device_name=r"Instinct MI300X( OAM)?",
        flops_per_s=_rates(1307.4, 653.7, 163.4),
        memory_bytes_per_s=5.3e12,
        memory_bytes=192e9,
        cache_bytes=256 * _MIB,
        link_bytes_per_s=448e9,
        sources=("AMD Instinct MI300X Data Sheet (256 MB last-level cache; 7 links of 128 GB/s both ways)",),
    ),
)

_ALIASES = {
    "a100": "a100-80gb",
    "a100-sxm": "a100-80gb",
    "h100-sxm": "h100",
    "h100-sxm5": "h100",
    "h200-sxm": "h200",
    "rtx-4090": "rtx4090",
    "4090": "rtx4090",
}


def parse_hardware(text: str) -> Hardware:
    """``h100`` or ``h100x8`` as Hardware.

    Raises:
        UsageError: no such device, or a count that is no whole number above zero.
    """
    entries = {entry.key: entry for entry in ENTRIES}
    known = [*entries, *_ALIASES]
    name, count = text.strip().lower().replace("_", "-"), 1
    if name not in known and (match := re.fullmatch(r"(.+?)x([0-9]+)", name)):
        name, count = match.group(1), int(match.group(2)[:_MAX_DIGITS])
    name = _ALIASES.get(name, name)
    if name not in entries:
        known = suggestion(name, known)
        raise UsageError(f"unknown hardware {shown(text)}; {known} (8 of them: h100x8)", source="--hardware")
    if not 1 <= count <= MAX_DEVICES:
        raise UsageError(f"{shown(text)}: write from x1 to x{MAX_DEVICES} devices", source="--hardware")
    return Hardware(entries[name], count)


def lookup(device_name: str) -> Entry | None:
    """The entry of a CUDA device's name such as ``NVIDIA H100 80GB HBM3``; None where there is none.

    All of the name counts: what is called ``GH200 480GB``, ``H100 NVL`` or ``… MIG 1g.10gb`` is another device.
    """
    name = re.sub(r"^(NVIDIA|AMD)\s+", "", device_name.strip())
    return next((entry for entry in ENTRIES if re.fullmatch(entry.device_name, name)), None)


def local_gpu(directory: Path = _NVIDIA_GPUS) -> Entry | None:
    """The entry of this machine's first NVIDIA GPU, as its driver names it; None where unknown."""
    for information in sorted(directory.glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", information.read_text(encoding="utf-8"), re.MULTILINE)
        return lookup(match.group(1)) if match else None
    return None
