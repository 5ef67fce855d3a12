"""What devices can compute at most, dense, in 10^12 operations a second, from their data sheets."""

from __future__ import annotations

PEAKS: dict[str, dict[str, float]] = {
    "B200": {"float32": 80.0, "tf32": 1100.0, "bfloat16": 2250.0},
    "H200": {"float32": 66.9, "tf32": 494.7, "bfloat16": 989.4},
    "GH200": {"float32": 66.9, "tf32": 494.7, "bfloat16": 989.4},
    "H100 PCIe": {"float32": 51.2, "tf32": 378.0, "bfloat16": 756.0},
    "H100": {"float32": 66.9, "tf32": 494.7, "bfloat16": 989.4},
    "A100": {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0},
    "L40S": {"float32": 91.6, "tf32": 183.0, "bfloat16": 362.0},
    "L4": {"float32": 30.3, "tf32": 60.0, "bfloat16": 121.0},
    "A10": {"float32": 31.2, "tf32": 62.5, "bfloat16": 125.0},
    "RTX 4090": {"float32": 82.6, "tf32": 82.6, "bfloat16": 165.2},
    "RTX 3090": {"float32": 35.6, "tf32": 35.6, "bfloat16": 71.0},
    "T4": {"float32": 8.1},
}
"""By a part of the name that the driver gives; the first that fits."""


def peak_of(device: str, arithmetic: str) -> float | None:
    """Operations a second, None where the table has no such device. float32 is multiplied as three
    bf16 numbers, which are six products, where that is faster."""
    for name, row in PEAKS.items():
        if name in device:
            found = row.get(arithmetic)
            if found is not None and arithmetic == "float32":
                found = max(found, row.get("bfloat16", 0.0) / 6)
            return None if found is None else found * 1e12
    return None
