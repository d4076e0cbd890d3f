"""Do real knees keep their pace? Which shape of `progression.latent.history.pace` fits their later readings best.

    python benchmarks/pace_shape.py --table visits.csv --images FOLDER --model MODEL --split train

The film at baseline and the readings up to a visit say what the grade will be at a later one: with the model's own
rates, and with the pace that the rise so far shows. Films of later visits are not at hand, so the picture is the
baseline's in both, which tells the later visit less than its own would, and pace may make up for that: the gain is an
upper bound. Surprise is the mean negative log-likelihood of the later grade; its difference to no pace with a
standard error over knees (two knees of a person count as two). Rises made (mean number of steps) beside expected, in
those that had risen and the others.
"""

from __future__ import annotations

import torch
from spread_coverage import arguments, graded

from progression.data.dataset import Knees
from progression.latent.history import Past, expected_rise, joint_grades
from progression.risk.grader import Grading
from progression.risk.model import RiskModel
from progression.train.risk import rows_of

SHAPES = (float("inf"), 8.0, 4.0, 2.0, 1.0, 0.5)
VISITS = ((24.0, 96.0), (48.0, 96.0), (24.0, 48.0))


def table(risk: RiskModel, grading: Grading, knees: Knees) -> str:
    """By visits and shape, as Markdown."""
    months, read = knees.series_months.tolist(), torch.from_numpy(knees.grade_series)
    highest = read.cummax(dim=1).values
    lines = [
        "| from, to | knees | shape | surprise | less | had risen: expected, made | others |",
        "|---" * 7 + "|",
    ]
    for now, later in VISITS:
        a, b = months.index(now), months.index(later)
        known = (read[:, [0, a, b]] >= 0).all(dim=1)
        seen = rows_of(grading, known.nonzero()[:, 0].numpy())
        first, start, end = (highest[known, place] for place in (0, a, b))
        rise, made = (start - first).double(), (end - start).double()
        ahead = expected_rise(joint_grades(risk, seen, first, [now]))[:, 0]
        plain = None
        for shape in SHAPES:
            pace = torch.ones_like(rise) if shape == float("inf") else (shape + rise) / (shape + ahead)
            past = Past(torch.full_like(start, -1), pace)
            joint = joint_grades(risk, seen, start, [later - now], past=past)
            surprise = -joint[:, 0].sum(dim=1).gather(1, end[:, None])[:, 0].clamp(min=1e-9).log()
            plain = surprise if plain is None else plain
            less, steps = surprise - plain, expected_rise(joint)[:, 0]
            pairs = [f"{steps[rows].mean():.2f}, {made[rows].mean():.2f}" for rows in (rise > 0, rise == 0)]
            lines.append(
                f"| {now:.0f}, {later:.0f} | {len(rise)} | {shape:g} | {surprise.mean():.4f} "
                f"| {less.mean():+.4f} ± {less.std() / len(less) ** 0.5:.4f} | {pairs[0]} | {pairs[1]} |"
            )
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    print(table(*graded(arguments(__doc__, split="train"))))


if __name__ == "__main__":
    main()
