"""The results of `extrapolation_phantom.py` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = ("grader", "LPIPS")


def tables(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    chosen = "; ".join(
        f"{kind} k = {c['k']}, scale {c['scale']} ({c['relative']:+.1%})"
        for kind, c in result["chosen"].items()
    )
    rows = result["comparisons"]
    return "\n\n".join(
        [
            "\n".join(["| | accuracy | quadratic kappa |", "|---|---|---|", *_quality(result["grader"])]),
            f"Reconstruction of baseline films: {result['reconstruction']['psnr']:.1f} dB, "
            f"SSIM {result['reconstruction']['ssim']:.3f}. Chosen on validation subjects: {chosen}. "
            f"Ridge of the steps, knees: {result['shrinkage']}",
            primary_table(result["primary"]),
            "At every horizon, Holm's correction over all:",
            primary_table(result["every_horizon"]),
            f"The same on {result['confirmation'][0]['subjects']} other test subjects:",
            primary_table(result["confirmation"]),
            *(
                distance_table(result, months=months, group=group)
                for months in sorted({row["months"] for row in rows}, reverse=True)
                for group in ("all", "rise", "no rise")
                if months == 96.0 or group == "all"
            ),
            attenuation_table(result["attenuation"]),
            risk_table(result["risk"]),
        ]
    )


def _quality(grader: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [f"| {name} | {q['accuracy']:.3f} | {q['quadratic_kappa']:.3f} |" for name, q in grader.items()]


def primary_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparisons stated beforehand."""
    lines = [
        "| primary | form | months | change of the mean distance | t-test | Holm | Wilcoxon | nearer |",
        "|---" * 8 + "|",
    ]
    lines += [
        f"| {row['method']} | {row['form']} | {row['months']:.0f} | {change(row)} | {p_value(row['p_mean'])} "
        f"| {p_value(row['p_holm'])} | {p_value(row['p'])} | {row['nearer']:.0%} |"
        for row in rows
    ]
    return "\n".join(lines)


def distance_table(result: Mapping[str, Any], *, months: float, group: str) -> str:
    """Relative change of the mean distance against the baseline carried forward, with interval and p of the t-test."""
    rows = [r for r in result["comparisons"] if r["months"] == months and r["group"] == group]
    columns = [(m, f) for m in SHOWN for f in ("rendered", "added") if any(r["metric"] == m for r in rows)]
    lines = [
        f"**{months:.0f} months, {group}** ({rows[0]['subjects'] if rows else 0} subjects)\n",
        "| truth | method | " + " | ".join(f"{metric}, {form}" for metric, form in columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    cells: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for r in rows:
        text = f"{change(r)} p {p_value(r['p_mean'])}"
        cells.setdefault((r["truth"], r["method"]), {})[r["metric"], r["form"]] = text
    lines += [
        f"| {' | '.join(head)} | {' | '.join(cell[column] for column in columns)} |"
        for head, cell in sorted(cells.items(), key=lambda item: item[0][0])
    ]
    return "\n".join(lines)


def attenuation_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Displacements beside the true one, in knees that rise."""
    names = ("on_true", "calibration", "cosine", "length", "grade_change")
    lines = ["| displacement | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    lines += [
        f"| {label} | " + " | ".join(f"{values[name]:.2f}" for name in names) + " |"
        for label, values in found.items()
        if label != "films"
    ]
    seen = ", ".join(f"{name} {value:.2f}" for name, value in found.get("films", {}).items())
    return "\n".join([*lines, "", f"Knees that rise by 96 months: {seen}"])


def risk_table(found: Mapping[str, Any]) -> str:
    """AUCs, and rank correlations with the true change of severity and with the visible part of the rate."""
    columns = sorted({(r["event"], r["months"]) for r in found["auc"]})
    events = {(r["event"], r["months"]): f"{r['events']}/{r['knees']}" for r in found["auc"]}
    heads = [f"{event} {months:.0f} ({events[event, months]})" for event, months in columns]
    lines = [
        "| setting | score | " + " | ".join(heads) + " | severity | visible |",
        "|---" * (4 + len(heads)) + "|",
    ]
    cells: dict[tuple[str, str], dict[tuple[str, float], str]] = {}
    for r in found["auc"]:
        p = f" p {p_value(r['p'])}" if "p" in r and r["p"] < 1 else ""
        text = f"{r['auc']:.2f} ({r['low']:.2f}, {r['high']:.2f}){p}" if "auc" in r else "-"
        cells.setdefault((r["setting"], r["score"]), {})[r["event"], r["months"]] = text
    for (setting, score), row in cells.items():
        ranks = found["spearman"].get(f"{setting}: {score}", {})
        last = " | ".join(f"{ranks[n]:.2f}" if n in ranks else "-" for n in ("severity_change", "visible"))
        lines.append(f"| {setting} | {score} | {' | '.join(row[c] for c in columns)} | {last} |")
    return "\n".join(lines)


def change(row: Mapping[str, Any]) -> str:
    """Relative change of a comparison, with its interval."""
    return f"{row['relative']:+.1%} ({row['low']:+.1%}, {row['high']:+.1%})"


def p_value(value: float) -> str:
    """Three digits."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
