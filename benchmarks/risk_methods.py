"""The methods that the benchmark of risk compares. To add one: write `predict`, and register it in `METHODS`.

A method gets a `Task`, learns from `task.fitted` alone, and says for every knee of `task.asked` (other people) how
likely each `Event` is by each of `HORIZONS`: (N, H). It fits on the knees whose outcome is known, and a penalty or a
number of neighbours is chosen inside `task.fitted`, by the likelihood of subjects left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import torch
from code_risk import CodeRisk
from risk_sources import HORIZONS, Array, Sample, Task
from sklearn.linear_model import LogisticRegression

from progression.data.outcomes import Event, GradeSeries, outcomes
from progression.risk.covariates import OtherKnee
from progression.risk.grader import RISE_TARGETS
from progression.risk.model import Risk, RiskModel
from progression.risk.risk import product_risk
from progression.train.grader import fold_of
from progression.types import KL_GRADES

IMAGE, READ = "image only", "image and read grade"
BOTH, BOTH_READ = "both knees' images", "both knees' images and read grades"
SETTINGS = (IMAGE, READ, BOTH, BOTH_READ)
PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Inverse strengths to choose from (scikit-learn's C) for logistic models on components of ImageNet features."""
COUNTS = (5, 20, 50, 100, 200, 400)
"""Numbers of neighbours to choose from; the paper's five among them."""
CODE_COMPONENTS = 16
INNER_FOLDS = 3

Risks = dict[Event, Array]
Predict = Callable[[Task], Risks]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Method:
    """How a row of the table comes about.

    Attributes
    ----------
    name, setting : of the row
    predict : the method
    ours : whether the setting's other methods are tested against this one
    drawn : whether figures show it
    needs : what it looks at beside gradings: "features", "codes", or the method of the follow-ups
    """

    name: str
    setting: str
    predict: Predict
    ours: bool = False
    drawn: bool = False
    needs: str = ""


def outcome(sample: Sample, event: Event, months: float) -> Array:
    """(N,) 1, 0, or nan where the knee is outside the population or was not read in (0, T]."""
    knees = sample.knees
    series = GradeSeries(knees.subject, knees.side, knees.series_months, knees.grade_series)
    label = outcomes(series, months)[event.label]
    return label.astype("Float64").to_numpy(dtype=float, na_value=np.nan)


def each_end_point(one: Callable[[Task, Event, int], Array]) -> Predict:
    """A method from one that answers for one event and one horizon."""

    def predict(task: Task) -> Risks:
        return {event: np.stack([one(task, event, t) for t in HORIZONS], axis=1) for event in Event}

    return predict


def of_risk(risk: Risk) -> Risks:
    """From the risk model's answer."""
    return {Event.FAST: risk.fast.numpy(), Event.ANY: risk.any.numpy()}


def read_grade(sample: Sample) -> torch.Tensor:
    """(N,) as a reader gave it."""
    return torch.as_tensor(sample.knees.grade)


def certain(sample: Sample) -> torch.Tensor:
    """(N, 5) the read grade as a certainty."""
    return torch.nn.functional.one_hot(read_grade(sample).clamp(min=0), KL_GRADES).double()


# --- the risk model ---------------------------------------------------------------------------------------------


def multistate(task: Task, *, read: bool) -> Risks:
    """The model's own risk part on the grader's gradings."""
    asked = task.asked
    return of_risk(task.risk.predict(asked.grading, HORIZONS, grade=read_grade(asked) if read else None))


def multistate_of_both(task: Task, *, read: bool) -> Risks:
    """The same of both knees; a knee whose other one is not there, by the model of one."""
    asked, both = task.asked, np.flatnonzero(task.asked.other >= 0)
    risks = multistate(task, read=read)
    rows, partner = torch.as_tensor(both), torch.as_tensor(task.asked.other[both])
    grade = read_grade(asked) if read else torch.full((len(asked),), -1)
    other = OtherKnee(asked.grading.rows(partner), grade[partner])
    found = task.risk_pair.predict(asked.grading.rows(rows), HORIZONS, grade=grade[rows], other=other)
    for event, values in of_risk(found).items():
        risks[event] = risks[event].copy()
        risks[event][both] = values
    return risks


@lru_cache(maxsize=1)
def _code_risk(fitted: Sample, risk: RiskModel) -> CodeRisk:
    knees = fitted.knees
    series, months = torch.as_tensor(knees.grade_series), torch.as_tensor(knees.series_months).double()
    return CodeRisk.fit(risk, fitted.code, series, months, fitted.grading, CODE_COMPONENTS)


def with_code(task: Task, *, read: bool) -> Risks:
    """The same, its rates driven by the code's leading coordinates too (one penalty, not chosen)."""
    asked = task.asked
    grade = read_grade(asked) if read else None
    model = _code_risk(task.fitted, task.risk)
    fast, rises, _ = model.predict(asked.grading, asked.code, HORIZONS, grade=grade)
    return {Event.FAST: fast.numpy(), Event.ANY: rises.numpy()}


# --- the paper's product of two gradings ------------------------------------------------------------------------


def product(task: Task, *, method: str, read: bool) -> Risks:
    """Grades of the picture now (or the read one) and of the rendered follow-ups."""
    return _product(task.asked, task.asked.followups[method], read=read)


def carried_forward(task: Task, *, read: bool) -> Risks:
    """The last radiograph as its own follow-up, at every horizon."""
    return _product(task.asked, task.asked.grading.now[:, None].expand(-1, len(HORIZONS), -1), read=read)


def _product(asked: Sample, future: torch.Tensor, *, read: bool) -> Risks:
    now = certain(asked) if read else asked.grading.now.double()
    fast, rises = product_risk(now, future.double())
    return {Event.FAST: fast.numpy(), Event.ANY: rises.numpy()}


# --- grades alone -----------------------------------------------------------------------------------------------


def grade_rates(sample: Sample, event: Event, months: float) -> Array:
    """(5,) event rate of each read grade; one knee at the overall rate is added to each."""
    y = outcome(sample, event, months)
    known = np.isfinite(y)
    total = np.bincount(sample.knees.grade[known], minlength=KL_GRADES)
    risen = np.bincount(sample.knees.grade[known], weights=y[known], minlength=KL_GRADES)
    return np.asarray((risen + y[known].mean()) / (total + 1))


def rate_of_read_grade(task: Task, event: Event, months: int) -> Array:
    """Event rate of the knees that were read the same: all that neighbours can share without a picture."""
    return grade_rates(task.fitted, event, months)[task.asked.knees.grade]


def rate_of_seen_grade(task: Task, event: Event, months: int) -> Array:
    """The rates of the grades that the picture may show, among those that can rise so far."""
    can_rise = np.arange(KL_GRADES) <= event.highest_baseline
    weight = task.asked.grading.now.double().numpy() * can_rise
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
    return np.asarray(weight @ grade_rates(task.fitted, event, months))


def rate_of_both_grades(task: Task, event: Event, months: int) -> Array:
    """Event rate of the knees whose own and whose other knee's grade were read the same.

    As many knees as it takes to make ten at the rate of the own grade are added to each pair.
    """
    own = grade_rates(task.fitted, event, months)
    y = outcome(task.fitted, event, months)
    known = np.isfinite(y)
    fitted, asked = (s.knees.grade * (KL_GRADES + 1) + _other_grade(s) + 1 for s in (task.fitted, task.asked))
    pairs = KL_GRADES * (KL_GRADES + 1)
    total = np.bincount(fitted[known], minlength=pairs)[asked]
    risen = np.bincount(fitted[known], weights=y[known], minlength=pairs)[asked]
    return np.asarray((risen + 10 * own[task.asked.knees.grade]) / (total + 10))


def _other_grade(sample: Sample) -> npt.NDArray[np.int64]:
    """Read grade of the other knee, -1 where there is none."""
    return np.where(sample.other < 0, -1, sample.knees.grade[sample.other])


# --- logistic models --------------------------------------------------------------------------------------------

Design = Callable[[Sample, Event, float], Array]
"""Columns (N, C) of some knees."""


def logistic(*columns: Design, penalties: Sequence[float] = (1.0,)) -> Predict:
    """Logistic regression on columns side by side; a penalty is chosen inside where there are several."""

    def one(task: Task, event: Event, months: int) -> Array:
        y = outcome(task.fitted, event, months)
        known = np.isfinite(y)
        x, asked = (
            np.hstack([column(s, event, months) for column in columns]) for s in (task.fitted, task.asked)
        )
        x, y, subject = x[known], y[known], task.fitted.knees.subject[known]
        strength = penalties[0]
        if len(penalties) > 1:
            fold = fold_of(subject, folds=INNER_FOLDS, seed=7)
            scores = np.zeros(len(penalties))
            for left_out in range(INNER_FOLDS):
                inside, outside = fold != left_out, fold == left_out
                for i, risk in enumerate(_path(x[inside], y[inside], x[outside], penalties)):
                    scores[i] += log_likelihood(y[outside], risk)
            strength = penalties[int(scores.argmax())]
        return _path(x, y, asked, (strength,))[0]

    return each_end_point(one)


def _path(x: Array, y: Array, asked: Array, penalties: Sequence[float]) -> list[Array]:
    """Risks at each penalty, strongest first, each fit starting from the one before; without an event, 0."""
    if y.min() == y.max():
        return [np.full(len(asked), y[0])] * len(penalties)
    centre = x.mean(axis=0)
    model = LogisticRegression(warm_start=True, max_iter=500)
    risks = []
    for strength in penalties:
        model.set_params(C=strength).fit(x - centre, y)
        risks.append(model.predict_proba(asked - centre)[:, 1].astype(np.float64))
    return risks


def log_likelihood(y: Array, risk: Array) -> float:
    """Of outcomes under risks."""
    held = np.clip(risk, 1e-6, 1 - 1e-6)
    return float((y * np.log(held) + (1 - y) * np.log1p(-held)).sum())


def read_grades(sample: Sample, event: Event, months: float) -> Array:
    """One column a grade; large, so that a penalty on features beside them hardly holds them."""
    return 10 * certain(sample).numpy()


def other_read_grades(sample: Sample, event: Event, months: float) -> Array:
    """The same of the other knee, all 0 where there is none."""
    return 10.0 * (_other_grade(sample)[:, None] == np.arange(KL_GRADES))


def seen_grade(sample: Sample, event: Event, months: float) -> Array:
    """The grader's expected grade."""
    return sample.grading.expected_grade.double().numpy()[:, None]


def other_seen_grade(sample: Sample, event: Event, months: float) -> Array:
    """The same of the other knee; this knee's where there is none."""
    expected = seen_grade(sample, event, months)
    return np.where(sample.other[:, None] < 0, expected, expected[sample.other])


def features(sample: Sample, event: Event, months: float) -> Array:
    """Frozen ImageNet features: their leading components (`risk_sources`)."""
    return sample.features.double().numpy()


def rise_head(sample: Sample, event: Event, months: float) -> Array:
    """Log odds from the grader's head that was trained on this rise, of the next horizon that has one."""
    step, month = min(target for target in RISE_TARGETS if target[0] == event.rise and target[1] >= months)
    odds = sample.grading.rise[:, RISE_TARGETS.index((step, month))].double().clamp(1e-4, 1 - 1e-4).logit()
    return odds.numpy()[:, None]


# --- nearest neighbours -----------------------------------------------------------------------------------------


def neighbours(
    task: Task, event: Event, months: int, *, key: Callable[[Sample], torch.Tensor], read: bool
) -> Array:
    """How often the neighbours' grades rose; `read`: only neighbours that were read the same.

    The number of neighbours is chosen by the likelihood of the fitted knees, each without its own subject.
    """
    y = outcome(task.fitted, event, months)
    known = np.flatnonzero(np.isfinite(y))
    fitted, risen = task.fitted.take(known), torch.as_tensor(y[known])
    among, from_asked = _distance(task, key)
    own = torch.as_tensor(fitted.knees.subject[:, None] == fitted.knees.subject)
    inside = _rates(among[known][:, known].masked_fill(own, torch.inf), fitted, fitted, risen, read=read)
    best = max(range(len(COUNTS)), key=lambda i: log_likelihood(y[known], inside[i]))
    return _rates(from_asked[:, known], task.asked, fitted, risen, read=read)[best]


@lru_cache(maxsize=1)
def _distance(task: Task, key: Callable[[Sample], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances of unit keys: fitted to fitted, asked to fitted."""
    fitted, asked = (torch.nn.functional.normalize(key(s).float(), dim=1) for s in (task.fitted, task.asked))
    return 2 - 2 * fitted @ fitted.T, 2 - 2 * asked @ fitted.T


def _rates(
    distance: torch.Tensor, asked: Sample, fitted: Sample, risen: torch.Tensor, *, read: bool
) -> list[Array]:
    """For each of `COUNTS`, the event rate of so many nearest knees and one at the overall rate, (N,)."""
    if read:
        distance = distance.masked_fill(read_grade(asked)[:, None] != read_grade(fitted), torch.inf)
    near = distance.topk(min(max(COUNTS), len(fitted)), dim=1, largest=False)
    allowed = near.values.isfinite().double()
    events, total = (risen[near.indices] * allowed).cumsum(dim=1), allowed.cumsum(dim=1)
    places = [min(count, events.shape[1]) - 1 for count in COUNTS]
    return [((events[:, i] + risen.mean()) / (total[:, i] + 1)).numpy() for i in places]


def by_code(sample: Sample) -> torch.Tensor:
    """The encoder's w, as the paper searches."""
    return sample.code


def by_features(sample: Sample) -> torch.Tensor:
    """Frozen ImageNet features: their leading components."""
    return sample.features


def _near(key: Callable[[Sample], torch.Tensor], *, read: bool) -> Predict:
    return each_end_point(partial(neighbours, key=key, read=read))


METHODS = (
    Method("risk model (shipped)", IMAGE, partial(multistate, read=False), ours=True, drawn=True),
    Method("risk model and encoder's code", IMAGE, partial(with_code, read=False), needs="codes"),
    Method("product, follow-ups by joint", IMAGE, partial(product, method="joint", read=False), needs="joint"),
    Method(
        "product, follow-ups by paper", IMAGE, partial(product, method="paper", read=False), needs="paper", drawn=True
    ),
    Method("product, last radiograph carried forward", IMAGE, partial(carried_forward, read=False), drawn=True),
    Method("grade seen: its event rate", IMAGE, each_end_point(rate_of_seen_grade), drawn=True),
    Method(
        "logistic on ImageNet features", IMAGE, logistic(features, penalties=PENALTIES), needs="features", drawn=True
    ),
    Method("CNN end to end (rise heads)", IMAGE, logistic(rise_head), drawn=True),
    Method("neighbours in W", IMAGE, _near(by_code, read=False), needs="codes"),
    Method("neighbours by ImageNet features", IMAGE, _near(by_features, read=False), needs="features"),
    Method("risk model (shipped)", READ, partial(multistate, read=True), ours=True, drawn=True),
    Method("risk model and encoder's code", READ, partial(with_code, read=True), needs="codes"),
    Method("product, follow-ups by joint", READ, partial(product, method="joint", read=True), needs="joint"),
    Method("product, follow-ups by paper", READ, partial(product, method="paper", read=True), needs="paper"),
    Method("product, last radiograph carried forward", READ, partial(carried_forward, read=True)),
    Method("read grade: its event rate", READ, each_end_point(rate_of_read_grade), drawn=True),
    Method("logistic on read and seen grade", READ, logistic(read_grades, seen_grade), drawn=True),
    Method(
        "logistic on read grade and ImageNet features", READ, logistic(read_grades, features, penalties=PENALTIES),
        needs="features", drawn=True,
    ),
    Method("CNN end to end and read grade (logistic)", READ, logistic(read_grades, rise_head), drawn=True),
    Method("neighbours in W, read the same", READ, _near(by_code, read=True), needs="codes"),
    Method(
        "neighbours by ImageNet features, read the same", READ, _near(by_features, read=True), needs="features"
    ),
    Method("risk model of both (shipped)", BOTH, partial(multistate_of_both, read=False), ours=True, drawn=True),
    Method("risk model of one (shipped)", BOTH, partial(multistate, read=False), drawn=True),
    Method("logistic on both seen grades", BOTH, logistic(seen_grade, other_seen_grade)),
    Method("risk model of both (shipped)", BOTH_READ, partial(multistate_of_both, read=True), ours=True, drawn=True),
    Method("risk model of one (shipped)", BOTH_READ, partial(multistate, read=True), drawn=True),
    Method("both read grades: their event rate", BOTH_READ, each_end_point(rate_of_both_grades)),
    Method("logistic on both read grades", BOTH_READ, logistic(read_grades, other_read_grades)),
    Method(
        "logistic on both read and both seen grades", BOTH_READ,
        logistic(read_grades, other_read_grades, seen_grade, other_seen_grade),
    ),
)  # fmt: skip
