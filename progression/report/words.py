"""What a prediction says, in plain words; the same in every report."""

from dataclasses import dataclass

from progression.types import KL_GRADES, HorizonPrediction, Prediction

FOR_A_GROUP = (
    "These are shares of a group of knees that look alike to the model, not a statement about this person; whether "
    "this knee belongs to the few or to the many is not known."
)
_SURE = "In brackets: where a share would lie nine times in ten, had the model learnt from other people like these."
_UNSURE = "The shares are given without an interval: this model does not say how sure it is of them."
PICTURES = (
    "The follow-up pictures are drawn by a network: plausible, not measured. Nothing may be measured in them, and "
    "small findings such as osteophytes are not rendered. Compare them with the reconstruction, which the same network "
    "draws of the knee now: what differs between the radiograph and its reconstruction is error, not change."
)
WELL_READ_MONTHS = 48
"""Up to here nearly all knees of the default model's cohort were read (data card `knees`)."""
LATE_BY_DEFAULT = (
    "Beyond 48 months few knees of grades 2 and 3 were read (5 to 7 in 100 at 96 months), and a grade that nobody read "
    "counts as no rise: the true share may be higher."
)
LATE_BY_ANOTHER = (
    "A grade that nobody read counts as no rise: where few of the knees that the model learnt from were read beyond 48 "
    "months, the true share may be higher."
)
UNSEEN_BY_DEFAULT = (
    "The default model learnt from one cohort: the Osteoarthritis Initiative, North America, 45 to 79 years, with or "
    "at risk of knee osteoarthritis. Other people may differ.",
    "Its training films are posteroanterior (PA), standing, knees bent: no AP films, no lateral or skyline views, no "
    "implants, no fractures, no children. Its pictures are of one knee; the other, where it is given, has a part in "
    "the risks, and so in how much the pictures change.",
    "It has seen no follow-up pictures of real people, only their later grades; grades 3 and 4 are rare.",
)
UNSEEN_BY_ANOTHER = (
    "What the model has not seen is told in its card; compare the people it was trained on with yours."
)
_CANNOT = "cannot rise"


@dataclass(frozen=True)
class Table:
    """What is drawn as a table: a caption, the columns' heads, and rows with their own head first."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def asked_with(prediction: Prediction) -> str:
    """What the prediction was made from, in one line."""
    told = prediction.provenance
    knee = (
        "the other knee" + _read(told.get("other_grade_read")) if prediction.other_knee else "no other knee"
    )
    films = [
        f"{film['months_before']:g} months before{_read(film['grade_read'])}"
        for film in told.get("history", ())
    ]
    earlier = f"earlier films: {'; '.join(films)}" if films else "no earlier films"
    return (
        f"Asked with: this radiograph{_read(told.get('grade_read'), ', no grade read')}; {knee}; {earlier}."
    )


def grade_now(prediction: Prediction) -> tuple[float, ...] | None:
    """P(grade now) that the risks and `kl_read` start from: certainty if it was read; None without a risk model."""
    start = prediction.provenance.get("kl_start")
    return None if start is None else tuple(start)


def cannot_rise(prediction: Prediction, steps: int) -> bool:
    """Whether the grade is too high to rise by so many steps, so that there is no risk to tell."""
    start, read = grade_now(prediction), prediction.provenance.get("grade_read")
    if start is not None:
        return sum(start[: KL_GRADES - steps]) == 0
    return read is not None and read + steps >= KL_GRADES


def risk_sentences(prediction: Prediction) -> list[str]:
    """The risks of the horizons as numbers of knees in a hundred, or that there are none."""
    if cannot_rise(prediction, 1):
        return ["Grade 4 is the highest: this knee's grade cannot rise."]
    by_two = not cannot_rise(prediction, 2)
    sentences = [_of_group(horizon, by_two=by_two) for horizon in prediction.horizons]
    return sentences if by_two else [*sentences, "From grade 3 it cannot rise by two."]


def grade_sentences(prediction: Prediction) -> list[str]:
    """The highest grade to be read by each horizon: the likeliest, and those that hold it nine times in ten."""
    if cannot_rise(prediction, 1):
        return []
    return [
        _highest(h.horizon_months, h.kl_read, h.kl_set) for h in prediction.horizons if h.kl_read is not None
    ]


def told_risk(prediction: Prediction, horizon: HorizonPrediction, steps: int) -> str:
    """The risk of a rise by 1 or 2 steps in per cent, and how sure it is; or that there is none."""
    if cannot_rise(prediction, steps):
        return _CANNOT
    if steps == 2:
        return _share(horizon.risk_fast, horizon.risk_fast_interval)
    return _share(horizon.risk_any, horizon.risk_any_interval)


def tables(prediction: Prediction) -> list[Table]:
    """The risks with their intervals; with a risk model also the grades that are expected now and by each horizon."""
    horizons = prediction.horizons
    rises = Table(
        "Probability that the Kellgren-Lawrence grade rises",
        ("within", "by 1 or more", "by 2 or more"),
        tuple((_months(h), *(told_risk(prediction, h, steps) for steps in (1, 2))) for h in horizons),
    )
    start = grade_now(prediction)
    if start is None:
        return [rises]
    rows = [
        ("now", *(f"{p:.0%}" for p in start), ""),
        *(
            (_months(h), *(f"{p:.0%}" for p in h.kl_read), _or(h.kl_set or ()))
            for h in horizons
            if h.kl_read is not None
        ),
    ]
    head = ("", *(f"KL {grade}" for grade in range(KL_GRADES)), "nine times in ten")
    # without sets the last column would be empty
    columns = slice(None if any(h.kl_set for h in horizons) else -1)
    grades = Table(
        "Probability of each Kellgren-Lawrence grade: now (certain if it was read), and of the highest read by then",
        head[columns],
        tuple(row[columns] for row in rows),
    )
    return [rises, grades]


def caveats(prediction: Prediction) -> list[str]:
    """How the shares are meant, how sure they are, and what is missing in late ones."""
    if cannot_rise(prediction, 1):
        return []
    unsure = any(h.risk_any_interval is None for h in prediction.horizons)
    return [FOR_A_GROUP, _UNSURE if unsure else _SURE, *late(prediction)]


def late(prediction: Prediction) -> tuple[str, ...]:
    """Why the risks of late horizons may be too low, where there are any."""
    if cannot_rise(prediction, 1) or prediction.horizons[-1].horizon_months <= WELL_READ_MONTHS:
        return ()
    return (LATE_BY_DEFAULT if _by_default(prediction) else LATE_BY_ANOTHER,)


def unseen(prediction: Prediction) -> tuple[str, ...]:
    """What the model that predicted has not seen."""
    return UNSEEN_BY_DEFAULT if _by_default(prediction) else (UNSEEN_BY_ANOTHER,)


def typicality_sentence(prediction: Prediction) -> str:
    """How like the training radiographs this one is."""
    return (
        f"Typicality of this radiograph: {prediction.typicality:.2f}, from 0 (nothing like the training radiographs) "
        "to 1; near 0 the prediction must not be used."
    )


def _by_default(prediction: Prediction) -> bool:
    return prediction.provenance.get("model") == "default"


def _read(grade: int | None, otherwise: str = "") -> str:
    return otherwise if grade is None else f", read as grade {grade}"


def _of_group(horizon: HorizonPrediction, *, by_two: bool) -> str:
    return (
        f"Of 100 knees like this one, {_of_100(horizon.risk_any)} are expected to be graded at least one "
        f"Kellgren-Lawrence grade worse within {horizon.horizon_months} months"
        + (f", and {_of_100(horizon.risk_fast)} at least two." if by_two else ".")
    )


def _highest(months: int, read: tuple[float, ...], within: tuple[int, ...] | None) -> str:
    likeliest = max(range(KL_GRADES), key=lambda grade: read[grade])
    told = f"The highest grade read within {months} months is most likely {likeliest} ({read[likeliest]:.0%})"
    return told + ("." if within is None else f"; nine times in ten it is {_or(within)}.")


def _months(horizon: HorizonPrediction) -> str:
    return f"{horizon.horizon_months} months"


def _or(grades: tuple[int, ...]) -> str:
    return " or ".join(", ".join(str(grade) for grade in grades).rsplit(", ", 1))


def _share(risk: float, interval: tuple[float, float] | None) -> str:
    return f"{risk:.1%}" + ("" if interval is None else f" ({interval[0]:.1%} to {interval[1]:.1%})")


def _of_100(risk: float) -> str:
    number = round(100 * risk)
    if number == 0:
        return "fewer than 1"
    return "more than 99" if number == 100 else f"about {number}"
