"""The goals, and whether the results meet them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from benchmarks.conformance import KINDS
from benchmarks.judge import NOT_COMPARED, verdict
from benchmarks.matrix_unit import gain
from benchmarks.peers import BF16, efficiency, geometric_mean, ratio
from benchmarks.products_bf16 import COMPUTED
from benchmarks.record import Record, Row
from benchmarks.run_models import better_ms
from benchmarks.training.measure import bars_of

Rows = Mapping[str, Row]


@dataclass(frozen=True)
class Bar:
    """One line: `found` is what was measured, in words, and `met` None where nothing was."""

    name: str
    wanted: str
    found: str = "not measured"
    met: bool | None = None


def all_bars(record: Record) -> list[Bar]:
    """Every bar, judged by what the record holds."""
    return [bar for section in _BARS for bar in bars_of_section(section, record.rows(section))]


def bars_of_section(section: str, rows: Rows) -> list[Bar]:
    """The bars that a section's rows decide; those of some sections are none."""
    judge = _BARS.get(section)
    return [] if judge is None else judge(rows)


def _most(name: str, value: float | None, limit: float, form: str = ".2f", note: str = "") -> Bar:
    if value is None:
        return Bar(name, f"at most {limit:{form}}")
    return Bar(name, f"at most {limit:{form}}", f"{value:{form}}{note}", value <= limit)


def _least(name: str, value: float | None, limit: float, form: str = ".0%", note: str = "") -> Bar:
    if value is None:
        return Bar(name, f"at least {limit:{form}}")
    return Bar(name, f"at least {limit:{form}}", f"{value:{form}}{note}", value >= limit)


def _worst(named: Mapping[str, float]) -> tuple[float | None, str]:
    """The largest, and whose it is."""
    if not named:
        return None, ""
    name = max(named, key=lambda key: named[key])
    return named[name], f" ({name})"


def _mean_and_worst(title: str, named: Mapping[str, float], mean: float, worst: float) -> list[Bar]:
    value, whose = _worst(named)
    center = geometric_mean(named.values()) if named else None
    note = f" of {len(named)}"
    return [
        _most(f"{title}: geometric mean", center, mean, note=note),
        _most(f"{title}: worst", value, worst, note=whose),
    ]


def _peers(rows: Rows) -> list[Bar]:
    verdicts = [verdict(row) for row in rows.values()]
    right, compared = verdicts.count("right"), len(verdicts) - verdicts.count(NOT_COMPARED)
    return [
        *_ratios("float32 against the best peer", rows, "bessemer", 0.85, 1.1),
        *_ratios("bfloat16 against openvino bf16", rows, BF16, 0.85, 1.1),
        Bar("float32: right results", "all", f"{right} of {compared}", right == compared)
        if compared
        else Bar("float32: right results", "all"),
        *_threads(rows),
    ]


def _ratios(title: str, rows: Rows, ours: str, mean: float, worst: float) -> list[Bar]:
    found: list[Bar] = []
    for threads in sorted({name.rsplit("/", 1)[1] for name in rows}) or ["1"]:
        named = {
            name: value
            for name, row in rows.items()
            if name.endswith(f"/{threads}") and (value := ratio(row, ours)) is not None
        }
        found += _mean_and_worst(f"{title}, {_threads_text(threads)}", named, mean, worst)
    return found


def _threads_text(count: str) -> str:
    return f"{count} thread{'' if count == '1' else 's'}"


def _corpus(rows: Rows) -> list[Bar]:
    found: list[Bar] = []
    for threads in sorted({name.rsplit("/", 1)[1] for name in rows}) or ["1"]:
        mine = {name: row for name, row in rows.items() if name.endswith(f"/{threads}")}
        named = {name: row["ms"] / better_ms(row) for name, row in mine.items() if "ms" in row}
        title = f"corpus against onnxruntime's better setting, {_threads_text(threads)}"
        found += _mean_and_worst(title, named, 0.70, 1.1)
        right = sum(row.get("status") == "ok" for row in mine.values())
        if mine:
            found.append(
                Bar(
                    f"corpus, {_threads_text(threads)}: right results",
                    "all",
                    f"{right} of {len(mine)}",
                    right == len(mine),
                )
            )
    return found


def _kernels(rows: Rows) -> list[Bar]:
    found = []
    for target, title, product, layers in (
        ("host", "this machine", 0.92, 0.92),
        ("x86_64-avx2", "AVX2 only", 0.85, 0.85),
    ):
        gemm = rows.get(f"gemm 1024x1024x1024@{target}", {}).get("share")
        found.append(_least(f"GEMM 1024^3, of the peak, {title}", gemm, product, ".1%"))
        shares = [
            row["share"]
            for name, row in rows.items()
            if name.startswith("conv ") and name.endswith(f"@{target}") and "share" in row
            for _ in range(row["count"])
        ]
        mean = geometric_mean(shares) if shares else None
        found.append(_least(f"ResNet-50's convolutions, direct, {title}", mean, layers, ".1%"))
    return found


def _products(rows: Rows) -> list[Bar]:
    found: list[Bar] = []
    for name, row in rows.items():
        if name.endswith(COMPUTED):
            continue
        ours, torch, peak = (row.get(f"{key}_gflops") for key in ("bessemer", "torch", "peak"))
        limit = f" (at most {peak / torch:.2f} with this processor)" if torch and peak else ""
        by_torch = ours / torch if ours and torch else None
        found.append(_least(f"bf16 GEMM {name} by torch's", by_torch, 1.15, ".2f", limit))
    return found


def _matrix_unit(rows: Rows) -> list[Bar]:
    named = ((size, rows.get(f"gemm {size}x{size}x{size} bf16x3", {})) for size in (512, 1024))
    return [
        _least(f"bf16x3 {size}^3 by our fused multiply-adds", gain(row), 1.45, ".2f")
        for size, row in named
        if row
    ]


def _row_kernels(rows: Rows) -> list[Bar]:
    return [
        _least(
            f"{name.replace('/', ', threads ')}, 16 MiB: of the copy bandwidth",
            row.get("share"),
            0.85,
        )
        for name, row in rows.items()
    ]


def _small(rows: Rows) -> list[Bar]:
    lenet, mlp = rows.get("lenet", {}), rows.get("mlp", {})
    by_ort = lenet["bessemer_us"] / lenet["onnxruntime_us"] if "onnxruntime_us" in lenet else None
    by_floor = mlp["bessemer_us"] / mlp["floor_us"] if "floor_us" in mlp else None
    return [
        _most("LeNet, batch 1, from Python, by onnxruntime", by_ort, 0.5),
        _most("MLP, batch 1, by the time to read its weights", by_floor, 1.3),
    ]


def _compile_time(rows: Rows) -> list[Bar]:
    row = rows.get("resnet50", {})
    by_iree = row["cold"] / row["iree"] if "iree" in row else None
    cached = row["cached"] / row["onnxruntime"] if "onnxruntime" in row else None
    return [
        _most("ResNet-50: cold compile by IREE's", by_iree, 0.5),
        _most("ResNet-50: from the cache by onnxruntime's session", cached, 1.0),
    ]


def _memory(rows: Rows) -> list[Bar]:
    gaps = {name: row["gap"] for name, row in rows.items() if "gap" in row}
    peaks = {
        name: row["artifact"] / row["onnxruntime"]
        for name, row in rows.items()
        if "artifact" in row and "onnxruntime" in row
    }
    gap, whose = _worst(gaps)
    peak, which = _worst(peaks)
    return [
        _most("arena above its lower bound: worst", gap, 0.03, ".1%", whose),
        _most("peak memory of the artifact by onnxruntime's: worst", peak, 1.0, note=which),
    ]


def _all_hold(name: str, wanted: str, held: Iterable[bool]) -> Bar:
    found = list(held)
    if not found:
        return Bar(name, wanted)
    return Bar(name, wanted, f"{sum(found)} of {len(found)}", all(found))


def _bits(rows: Rows) -> list[Bar]:
    held = (row["runs"] and row["threads"] for row in rows.values() if "runs" in row)
    return [_all_hold("the same bits from run to run and at all numbers of threads", "all", held)]


def _exact(rows: Rows) -> list[Bar]:
    held = (row["bessemer"] <= row["onnxruntime"] for row in rows.values() if "onnxruntime" in row)
    return [_all_hold("as near to float64 as onnxruntime", "for information", held)]


def _threads(rows: Rows) -> list[Bar]:
    """Informs: how much of a second thread's time is of use."""
    shares = {
        name.removesuffix("/2"): share
        for name in rows
        if name.endswith("/2") and (share := efficiency(rows, name)) is not None
    }
    if not shares:
        return []
    worst = min(shares, key=lambda model: shares[model])
    text = f"{geometric_mean(shares.values()):.0%}, worst {shares[worst]:.0%} ({worst})"
    return [Bar("efficiency of 2 threads, geometric mean", "for information", text)]


def _training(rows: Rows) -> list[Bar]:
    return [
        Bar(bar.name, bar.shown(bar.wanted), bar.shown(bar.found), bar.met)
        for name, row in rows.items()
        for bar in bars_of(name, row)
    ]


def _conformance(rows: Rows) -> list[Bar]:
    whole = [rows[kind] for kind in KINDS if kind in rows]
    cases = sum(row.get("cases", 0) for row in whole)
    if not cases:
        return [Bar("ONNX conformance", "for information")]
    passed = sum(row.get("passed", 0) for row in whole)
    return [Bar("ONNX conformance", "for information", f"{passed} of {cases} cases")]


_BARS: Mapping[str, Callable[[Rows], list[Bar]]] = {
    "peers": _peers,
    "corpus": _corpus,
    "kernels": _kernels,
    "products_bf16": _products,
    "matrix_unit": _matrix_unit,
    "row_kernels": _row_kernels,
    "small": _small,
    "compile_time": _compile_time,
    "memory": _memory,
    "bits": _bits,
    "exactness": _exact,
    "training": _training,
    "conformance": _conformance,
}
