"""The results of `extrapolation_phantom.py` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tables(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    return "\n\n".join(
        [
            "\n".join([
                "| | accuracy | quadratic kappa |", "|---|---|---|",
                *(f"| {name} | {q['accuracy']:.3f} | {q['quadratic_kappa']:.3f} |"
                  for name, q in result["grader"].items()),
                "",
                f"Reconstruction of baseline films: {result['reconstruction']['psnr']:.1f} dB, "
                f"SSIM {result['reconstruction']['ssim']:.3f}. Chosen on validation subjects: "
                + "; ".join(f"{kind} k = {c['k']}, scale {c['scale']} ({c['relative']:+.1%})"
                            for kind, c in result["chosen"].items()),
            ]),
            *(distance_table(result, months=96.0, group=group) for group in ("all", "rise", "no rise")),
            *(distance_table(result, months=months, group="all") for months in (48.0, 24.0)),
            _attenuation_table(result["attenuation"]),
            _risk_table(result["risk"]),
        ]
    )  # fmt: skip


def distance_table(result: Mapping[str, Any], *, months: float, group: str) -> str:
    """Relative change of the mean distance against the baseline carried forward, with interval and p."""
    rows = [r for r in result["comparisons"] if r["months"] == months and r["group"] == group]
    metrics = list(dict.fromkeys(r["metric"] for r in rows))
    lines = [
        f"**{months:.0f} months, {group}** ({rows[0]['subjects'] if rows else 0} subjects)\n",
        "| form | truth | method | " + " | ".join(metrics) + " |",
        "|---" * (3 + len(metrics)) + "|",
    ]
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for r in rows:
        text = f"{r['relative']:+.1%} ({r['low']:+.1%}, {r['high']:+.1%}) p {_p(r['p'])}"
        cells.setdefault((r["form"], r["truth"], r["method"]), {})[r["metric"]] = text
    lines += [f"| {' | '.join(key)} | {' | '.join(c[m] for m in metrics)} |" for key, c in cells.items()]
    return "\n".join(lines)


def _attenuation_table(found: Mapping[str, Mapping[str, float]]) -> str:
    names = ("on_true", "calibration", "cosine", "length", "grade_change")
    lines = ["| displacement | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    lines += [
        f"| {label} | " + " | ".join(f"{values[name]:.2f}" for name in names) + " |"
        for label, values in found.items()
        if label != "films"
    ]
    seen = ", ".join(f"{name} {value:.2f}" for name, value in found.get("films", {}).items())
    return "\n".join([*lines, "", f"Knees that rise by 96 months: {seen}"])


def _risk_table(found: Mapping[str, Any]) -> str:
    columns = sorted({(r["event"], r["months"]) for r in found["auc"]})
    events = {(r["event"], r["months"]): f"{r['events']}/{r['knees']}" for r in found["auc"]}
    heads = [f"{event} {months:.0f} ({events[event, months]})" for event, months in columns]
    lines = ["| setting | score | " + " | ".join(heads) + " | Spearman |", "|---" * (3 + len(heads)) + "|"]
    cells: dict[tuple[str, str], dict[tuple[str, float], str]] = {}
    for r in found["auc"]:
        p = f" p {_p(r['p'])}" if "p" in r and r["p"] < 1 else ""
        text = f"{r['auc']:.2f} ({r['low']:.2f}, {r['high']:.2f}){p}" if "auc" in r else "-"
        cells.setdefault((r["setting"], r["score"]), {})[r["event"], r["months"]] = text
    for (setting, score), row in cells.items():
        rank = found["spearman"].get(f"{setting}: {score}", {}).get("severity_change")
        last = "-" if rank is None else f"{rank:.2f}"
        lines.append(f"| {setting} | {score} | {' | '.join(row[c] for c in columns)} | {last} |")
    return "\n".join(lines)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
