"""Which method tells who progresses, on real outcomes? Every method, end point and setting, from one command.

    python benchmarks/risk_oai.py VISITS.csv --images FOLDER --work DIR --out DIR [--model default]

Cohorts: the training knees, each predicted by what never saw its subject (five folds of subjects; whatever is fitted
on outcomes is fitted anew without the fold, penalties included); and the validation knees, predicted by what was fitted
on all training knees. The gradings of the training knees come from the model's cross-fitted networks. What is not
nested: generator, encoder and bank saw the training knees, the bank their grade series too (through the models it was
drawn from), which can only favour the product of gradings.

Settings are never mixed: image only; image and the baseline grade that a reader gave; the same of both knees. Methods:
`benchmarks/risk_methods.py`. End points and populations: `progression.data.outcomes`. AUC with DeLong's interval and
bootstrap intervals, people as the sample; each method is tested against the setting's own (the shipped risk), p
corrected by Holm among the methods of one setting, end point, horizon and cohort.

What takes long is kept under --work (participant-level: outside the project) and found again: gradings, features,
codes, follow-ups, and every method's risks. After a change to a method delete its risks-*.npz there. --out gets the
tables, the figures and risk.json: aggregates only. Readers' points in the figure: six radiologists without and with a
synthetic follow-up, read to two decimals from the figure of Han et al. 2022 (arXiv 2111.11439), about other knees.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from readers import read_points
from risk_methods import METHODS, SETTINGS, Method, Risks, outcome
from risk_sources import (
    FOLLOWUPS,
    HORIZONS,
    LEAVABLE,
    Array,
    Rows,
    Sample,
    Sources,
    Task,
    check_outside,
    left_out_in,
)

from progression.data.outcomes import Event
from progression.errors import ProgressionError
from progression.evaluate.report import interval, markdown_table, write_json, write_text
from progression.evaluate.scores import judge_scores
from progression.files import atomic_write
from progression.memory import keep_freed_memory
from progression.metrics import auc_within, cluster_bootstrap
from progression.report.reader_figure import save_figure
from progression.report.risk_figure import (
    Panel,
    ReaderPoints,
    decision_figure,
    reliability_figure,
    roc_figure,
)

POINTS = Path(__file__).with_name("han2022_reader_points.csv")
COHORTS = {"train": "train, out of fold", "val": "val"}
PRIMARY = ((Event.FAST, 96), (Event.ANY, 48))
"""End points named beforehand: they are drawn, and summarised in one table."""
WITHIN = (*PRIMARY, (Event.FAST, 48))
"""End points at which knees are compared within their baseline grade too, as it decides who was read at 96 months."""


class Predictions:
    """Risks of every method on each cohort, kept under the work folder."""

    def __init__(self, sources: Sources, cohorts: Iterable[str] = tuple(COHORTS)) -> None:
        self.sources = sources
        self.samples = {split: sources.sample(split) for split in cohorts}
        self._tasks: dict[str, list[tuple[Rows, Task]]] = {}

    def usable(self, split: str) -> list[Method]:
        """Methods for which nothing that they need was left out."""
        return [method for method in METHODS if self.sources.has(method.needs, split)]

    def of(self, method: Method, split: str) -> Risks:
        """Risks (N, H) of every knee of a split."""
        label = f"{method.name}, {method.setting}"
        about = f"{label}\n{self.sources.engine if method.needs in FOLLOWUPS else ''}"
        name = f"risks-{hashlib.sha256(about.encode()).hexdigest()[:8]}-{split}-{self.sources.digest}.npz"
        path = self.sources.work / name
        if not path.is_file():
            self.sources.say(f"{label}, {split}: making {path.name}")
            risks = self._predict(method, split)
            with atomic_write(path) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, label=label, **{event.label: risks[event] for event in Event})
        with np.load(path, allow_pickle=False) as stored:
            return {event: stored[event.label] for event in Event}

    def _predict(self, method: Method, split: str) -> Risks:
        if split not in self._tasks:
            every = np.arange(len(self.samples[split]))
            folds = self.sources.folds() if split == "train" else [(every, self.sources.task())]
            self._tasks[split] = list(folds)
        risks = {event: np.full((len(self.samples[split]), len(HORIZONS)), np.nan) for event in Event}
        for rows, task in self._tasks[split]:
            for event, values in method.predict(task).items():
                risks[event][rows] = values
        return risks


def cases(
    predictions: Predictions, *, n_draws: int
) -> Iterator[tuple[str, str, Event, int, Array, dict[str, Array], dict[str, dict[str, Any]]]]:
    """Cohort, setting, event, months, outcomes (N,), risks by method (N,), and what they are worth."""
    for split, sample in predictions.samples.items():
        for setting in SETTINGS:
            methods = [method for method in predictions.usable(split) if method.setting == setting]
            risks = {method.name: predictions.of(method, split) for method in methods}
            ours = next((method.name for method in methods if method.ours), None)
            for event in Event:
                for column, months in enumerate(HORIZONS):
                    y = outcome(sample, event, months)
                    known = np.isfinite(y)
                    if not methods or not 0 < y[known].sum() < known.sum():
                        continue
                    scores = {name: found[event][known, column].clip(0, 1) for name, found in risks.items()}
                    rows = judge_scores(
                        y[known],
                        sample.knees.subject[known],
                        scores,
                        risks=scores,
                        against=ours,
                        n_draws=n_draws,
                    )
                    if (event, months) in WITHIN:
                        # nor are knees compared that were asked about by fits to other folds
                        fold = left_out_in(sample.knees) if split == "train" else 0
                        subject, alike = sample.knees.subject[known], (10 * fold + sample.knees.grade)[known]
                        for name, score in scores.items():
                            rows[name]["within"] = auc_within(y[known], score, alike)
                            rows[name]["within_people"] = cluster_bootstrap(
                                auc_within, subject, y[known], score, alike, n_draws=n_draws
                            )
                    yield split, setting, event, months, y[known], scores, rows


def line_of(sample: Sample, event: Event, months: int) -> dict[str, Any]:
    """How many were asked, and how many rose."""
    y = outcome(sample, event, months)
    known = np.isfinite(y)
    people = len(np.unique(sample.knees.subject[known]))
    return {"knees": int(known.sum()), "people": people, "events": int(np.nansum(y))}


def full_table(rows: list[dict[str, Any]]) -> str:
    """Every method, end point, horizon, setting and cohort."""
    header = ("method", "AUC (DeLong)", "− shipped risk", "p", "p (Holm)", "AP", "sensitivity at spec. 0.9",
              "specificity at sens. 0.8", "Brier", "Brier skill", "ECE", "slope")  # fmt: skip
    parts = []
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        about = f"rise ≥ {row['rise']} by {row['months']} months"
        counts = f"{row['events']} of {row['knees']} knees, {row['people']} people"
        groups.setdefault((row["setting"], about, COHORTS[row["cohort"]], counts), []).append(row)
    for (setting, about, cohort, counts), members in groups.items():
        lines = [_full_line(row) for row in members]
        parts.append(f"**{setting}; {about}; {cohort}** ({counts})\n\n{markdown_table(header, lines)}")
    return "\n\n".join(parts)


def _full_line(row: Mapping[str, Any]) -> tuple[object, ...]:
    minus = row.get("minus")
    return (
        row["method"],
        interval(row["auc"], row["auc_delong"]),
        *(
            (interval(minus["difference"], minus["people"]), _p(minus["p"]), _p(minus["p_holm"]))
            if minus
            else [""] * 3
        ),
        *(interval(row[name], row[f"{name}_people"]) for name in ("ap", "sensitivity", "specificity")),
        f"{row['brier']:.4f}",
        interval(row["brier_skill"], row["brier_skill_people"]),
        row["ece"],
        interval(row["slope"], row["slope_people"]),
    )


def summary_table(rows: list[dict[str, Any]], setting: str) -> str:
    """One setting: AUC of each method at the primary end points, by cohort.

    Marked where Holm's p < 0.05 against the setting's own method: * worse than it, † better.
    """
    asked = {(row["end_point"], row["months"], row["cohort"]) for row in rows}
    every = [(event, months, split) for event, months in PRIMARY for split in COHORTS]
    columns = [column for column in every if (column[0].label, *column[1:]) in asked]
    header = ["method"]
    for event, months, split in columns:
        match = [r for r in rows if (r["rise"], r["months"], r["cohort"]) == (event.rise, months, split)]
        counts = f"{match[0]['events']}/{match[0]['knees']}"
        header.append(f"rise ≥ {event.rise} by {months}, {split} ({counts})")
    found: dict[str, dict[tuple[int, int, str], str]] = {}
    for row in rows:
        if row["setting"] == setting:
            value = "{:.3f} ({:.3f}, {:.3f})".format(row["auc"], *row["auc_delong"])
            minus = row.get("minus")
            mark = ("*" if minus["difference"] < 0 else "†") if minus and minus["p_holm"] < 0.05 else ""
            found.setdefault(row["method"], {})[row["rise"], row["months"], row["cohort"]] = value + mark
    lines = [
        (name, *(cells.get((event.rise, months, split), "-") for event, months, split in columns))
        for name, cells in found.items()
    ]
    return markdown_table(header, lines)


def within_table(rows: list[dict[str, Any]]) -> str:
    """AUC among knees of one baseline grade, by setting, method, end point and cohort."""
    columns = [(event, months, split) for event, months in WITHIN for split in COHORTS]
    found: dict[tuple[str, str], dict[tuple[str, int, str], str]] = {}
    for row in rows:
        if "within" in row:
            cells = found.setdefault((row["setting"], row["method"]), {})
            cells[row["end_point"], row["months"], row["cohort"]] = interval(
                row["within"], row["within_people"]
            )
    header = ("setting", "method", *(f"rise ≥ {event.rise} by {t}, {split}" for event, t, split in columns))
    lines = [
        (*about, *(cells.get((event.label, t, split), "-") for event, t, split in columns))
        for about, cells in found.items()
    ]
    return markdown_table(header, lines)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def run(options: argparse.Namespace) -> None:
    check_outside(options.work)
    options.work.mkdir(parents=True, exist_ok=True)
    sources = Sources(
        options.table, options.images, options.model, options.work,
        engine=options.engine, without=frozenset(options.without),
    )  # fmt: skip
    predictions = Predictions(sources, options.cohorts)
    names, false, true = read_points(POINTS)
    readers = tuple(
        ReaderPoints(f"{len(names)} readers, {how} (Han et al. 2022)", false[i], true[i], filled=i == 0)
        for i, how in enumerate(("aided", "unaided"))
    )
    drawn = {method.name for method in METHODS if method.drawn}
    rows: list[dict[str, Any]] = []
    panels: list[Panel] = []
    for split, setting, event, months, y, scores, judged in cases(predictions, n_draws=options.draws):
        about = {
            "cohort": split,
            "setting": setting,
            "end_point": event.label,
            "rise": event.rise,
            "months": months,
        }
        counts = line_of(predictions.samples[split], event, months)
        rows += [{**about, **counts, "method": name, **row} for name, row in judged.items()]
        if (event, months) in PRIMARY and drawn & set(scores):
            title = f"rise ≥ {event.rise} by {months} months, {COHORTS[split]}\n{setting}"
            kept = {name: score for name, score in scores.items() if name in drawn}
            panels.append(Panel(title, y, kept, readers if event is Event.FAST else ()))
    panels.sort(key=lambda panel: not panel.readers)
    for name, draw in (
        ("roc", roc_figure),
        ("reliability", reliability_figure),
        ("decision", decision_figure),
    ):
        save_figure(options.out / f"risk_{name}.png", draw(panels))
    summaries = {setting: summary_table(rows, setting) for setting in SETTINGS}
    text = "\n\n".join(f"{setting}\n\n{table}" for setting, table in summaries.items())
    write_json({"model": sources.hashes, "draws": options.draws, "rows": rows}, options.out / "risk.json")
    write_text(text, options.out / "risk_summary.md")
    write_text(full_table(rows), options.out / "risk_table.md")
    write_text(within_table(rows), options.out / "risk_within_grade.md")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="default", help="name or folder")
    parser.add_argument("--work", type=Path, required=True, help="kept between runs; outside the project")
    parser.add_argument("--out", type=Path, required=True, help="tables, figures, risk.json")
    parser.add_argument("--engine", default="auto", help="of rendering and grading follow-ups")
    parser.add_argument(
        "--without", nargs="*", choices=LEAVABLE, default=(), help="leave out, with the methods that need it"
    )
    parser.add_argument("--cohorts", nargs="+", choices=list(COHORTS), default=list(COHORTS))
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    keep_freed_memory()
    try:
        run(options)
    except ProgressionError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
