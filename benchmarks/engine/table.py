"""What did `benchmarks.engine` find, in the tables of docs/engine.md? From its results file alone.

python -m benchmarks.engine.table [RESULTS.json]
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from benchmarks.environment import RESULTS
from benchmarks.environment import results_file

# What is to be reached at least, and what is aimed at.
STEP_IN_PRODUCTS = (2.5, 2.0)
SHARE_OF_EPOCH = (0.03, 0.01)
OVER_FORWARD = (1.5, 1.1)
TOGETHER = 2.0
_NONE = "–"


def speed_table(section: Any) -> str:
    """Times faster than a careful user / the paper's code (in the other allocator) / general."""
    found = {(row["architecture"], row["hidden_size"]): row for row in section["rows"]}
    names = dict.fromkeys(name for name, _ in found)
    sizes = sorted({size for _, size in found})
    lines = [["times faster than", *(f"H = {size}" for size in sizes)]]
    for name in names:
        cells = [_speed_cell(found.get((name, size))) for size in sizes]
        lines.append([name, *cells])
    return _markdown(lines)


def _speed_cell(row: Any) -> str:
    if row is None:
        return ""
    other = row.get("other_allocator", {}).get("public_over_ours")
    plain, public, general = (
        _times(row.get(f"{way}_over_ours")) for way in ("plain", "public", "general")
    )
    return f"{plain} / **{public}**{f' ({_times(other)})' if other else ''} / {general}"


def other_table(data: Any) -> str:
    """What else was to be reached: wanted at least, aimed at, measured."""
    lines = [["", "at least", "aim", "measured"]]
    if "gemm_cost" in data:
        lines += _product_lines(data["gemm_cost"]["rows"])
    if "fingerprint" in data:
        rows = data["fingerprint"]["rows"]
        for name in dict.fromkeys(row["architecture"] for row in rows):
            shares = {
                row["hidden_size"]: _percent(row["share_of_epoch"])
                for row in sorted(rows, key=lambda row: int(row["hidden_size"]))
                if row["architecture"] == name
            }
            reach, aim = (f"≤ {100 * s:g} %" for s in SHARE_OF_EPOCH)
            lines.append([f"fingerprint in epochs, {name}", reach, aim, _listed(shares)])
    if "candidates" in data:
        lines += _candidate_lines(data["candidates"])
    if "many_models" in data:
        ratios = {
            f"{row['architecture']}, k = {row['k']}": _times(row["one_by_one_over_together"])
            for row in data["many_models"]["rows"]
        }
        lines.append(["64 equal models at once, H = 64", f"{TOGETHER:g}×", "", _listed(ratios)])
    if "diagonal" in data:
        rows = data["diagonal"]["rows"]
        over = {
            f"{row['architecture']}{told}": f"{row[f'exponents_over_{way}']:.2g}"
            for row in rows
            for way, told in (("forward", ""), ("loop", ", step by step"))
        }
        label = f"N = {_number(rows[0]['state_size'])}, T = {_number(rows[0]['steps'])}"
        reach, aim = (f"≤ {ratio:g}" for ratio in OVER_FORWARD)
        lines.append(
            [f"all exponents in forward passes, {label}", reach, aim, _listed(over)],
        )
    if "first_call" in data:
        lines += _first_lines(data["first_call"])
    if "accuracy" in data:
        lines += _accuracy_lines(data["accuracy"])
    if "memory" in data:
        grown = {
            f"T = {row['steps']}, k = {row['k']}": f"{row['growth_mib']:.0f} MiB"
            for row in data["memory"]["rows"]
        }
        lines.append(["memory, LSTM full, H = 128, B = 8", "O(B·k·N)", "", _listed(grown)])
    return _markdown(lines)


def _product_lines(rows: Any) -> list[list[str]]:
    """A step in products of three kinds, each named."""
    rows = [row for row in rows if "step_in" in row]
    reach, aim = (f"≤ {ratio:g}" for ratio in STEP_IN_PRODUCTS)
    libraries = sorted({row["best_float64"].rsplit(" ", 1)[0] for row in rows})
    fastest = f"float64, the fastest library ({', '.join(libraries)})"
    kinds = {"float64, torch.bmm": "torch.bmm float64", "float32, torch.bmm": "torch.bmm float32"}
    lines = []
    for kind in (fastest, *kinds):
        found: dict[str, dict[int, str]] = {}
        for row in sorted(rows, key=lambda row: int(row["hidden_size"])):
            of_name = found.setdefault(row["architecture"], {})
            way = row["best_float64"] if kind == fastest else kinds[kind]
            of_name[row["hidden_size"]] = f"{row['step_in'][way]:.2f}"
        cells = "; ".join(
            f"{name} " + ", ".join(f"{size}: {value}" for size, value in of_name.items())
            for name, of_name in found.items()
        )
        wanted = [reach, aim] if kind.startswith("float64") else ["", ""]
        lines.append([f"a step in matrix products, {kind}", *wanted, cells])
    return lines if rows else []


def _candidate_lines(section: Any) -> list[list[str]]:
    each = section["milliseconds_each"]
    ratios = {
        "over at once": _times(section["one_by_one_over_together"]),
        "without compiled code, over at once": _times(section["general_over_together"]),
        "without compiled code, over with it": _times(section["general_over_one_by_one"]),
    }
    told = f"{section['models']} unequal candidates"
    return [
        [f"{told}, one by one", "", "", _listed(ratios)],
        [
            f"{told}, each on average",
            "",
            "",
            f"{each['together']:.2g} ms at once; {each['one_by_one']:.2g} ms one by one; "
            f"{each['general']:.2g} ms without compiled code",
        ],
    ]


def _first_lines(section: Any) -> list[list[str]]:
    warm, empty = section["warm_cache"], section["empty_cache"]
    return [
        ["`import optuna_aelle`", "", "", f"{warm['import']:.2g} s"],
        [
            "first spectrum of a process",
            "",
            "",
            f"{warm['first GRU']:.2g} s; {empty['first GRU'] + empty['first LSTM']:.2g} s where "
            f"Numba's cache is empty; peak {warm['peak_mib']:.0f} and {empty['peak_mib']:.0f} MiB",
        ],
    ]


def _accuracy_lines(section: Any) -> list[list[str]]:
    rows = section["float32_frame"]["rows"]
    narrow = {f"{r['architecture']} {r['hidden_size']}": f"{r['rms']:.0e}" for r in rows}
    probes = [row["fingerprint"] for row in rows if "fingerprint" in row]
    lines = [["float32 frame, trained networks, rms", "1e-4", "", _listed(narrow)]]
    if probes:
        worst_narrow = max(probe["rms"] for probe in probes)
        automatic = {
            "with compiled code": max(probe["auto_rms"] for probe in probes),
            "without": max(probe["general_auto_rms"] for probe in probes),
        }
        told = _listed({name: f"{rms:.0e}" for name, rms in automatic.items()})
        lines += [
            ["fingerprints, worst rms with a float32 frame", "1e-4", "", f"{worst_narrow:.0e}"],
            ["fingerprints as they are, worst rms", "1e-4", "", told],
        ]
    worst: dict[str, float] = {}
    for row in section["saturated"]["rows"]:
        for name, error in row["max_error"].items():
            worst[name] = max(worst.get(name, 0.0), float(error))
    rules = {
        f"p = {row['p']:g}, H = {row['hidden_size']}": _residual(row)
        for row in section["sum_rule"]["rows"]
    }
    total = section["finiteness"]["total"]
    crashes = total.get("foreign_errors")
    return [
        *lines,
        [
            "gain-10 tanh RNN, worst exponent of 5 networks",
            "1e-3",
            "",
            _listed({name: f"{error:.0e}" for name, error in worst.items()}),
        ],
        ["LSTM sum rule, U(−p, p)", "1e-4", "", _listed(rules)],
        [
            f"NaN or crash in {_number(total['networks'])} random networks, gains 0.01–30",
            "0",
            "",
            f"NaN: {total['nan']}" + ("" if crashes is None else f"; crash: {crashes}"),
        ],
    ]


def _residual(row: Any) -> str:
    residual = float(row["residual"])
    untested = row["sum_of_exponents"] == "-inf" and residual == 0.0
    return "both −∞" if untested else f"{residual:.0e}"


def peers_table(section: Any) -> str:
    """Times that the others take of ours, a row an architecture and dtype, a column a size."""
    names = [name for name, version in section["peers"].items() if version != "not installed"]
    found = {(r["architecture"], r["dtype"], r["hidden_size"]): r for r in section["rows"]}
    cases = sorted({case[:2] for case in found}, key=lambda case: (case[1], case[0]))
    sizes = sorted({size for _, _, size in found})
    versions = " / ".join(f"{name} {section['peers'][name]}" for name in names)
    lines = [[f"time over ours: {versions}", *(f"H = {size}" for size in sizes)]]
    for architecture, dtype in cases:
        cells = []
        for size in sizes:
            over = found.get((architecture, dtype, size), {}).get("over_ours", {})
            cells.append(" / ".join(_times(over.get(name)) for name in names))
        lines.append([f"{architecture}, {dtype}", *cells])
    return _markdown(lines)


def _times(ratio: float | None) -> str:
    """A ratio to two or three figures, without the powers of ten of ``g``."""
    if ratio is None:
        return _NONE
    return f"{ratio:.0f}×" if ratio >= 10.0 else f"{ratio:.2g}×"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 1e-3 else "< 0.1 %"


def _number(value: int) -> str:
    return f"{value:,}"


def _listed(values: dict[Any, str]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in values.items())


def _markdown(lines: Iterable[list[str]]) -> str:
    head, *rows = lines
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def main() -> None:
    """Print the tables of a results file."""
    path = results_file("python -m benchmarks.engine.table", __doc__, RESULTS / "engine.json")
    data = json.loads(path.read_text())
    if "speed" in data:
        print(speed_table(data["speed"]), end="\n\n")
    print(other_table(data))
    if data.get("peers", {}).get("rows"):
        print("\n" + peers_table(data["peers"]))


if __name__ == "__main__":
    main()
