"""What a prediction says, in plain words; the same in every report."""

from progression.types import HorizonPrediction, Prediction

FOR_A_GROUP = (
    "These are shares of a group of knees that look alike to the model, not a statement about this person; whether "
    "this knee belongs to the few or to the many is not known."
)
_SURE = "In brackets: where a share would lie nine times in ten, had the model learnt from other people like these."
_UNSURE = "The shares are given without an interval: this model does not say how sure it is of them."
PICTURES = (
    "The follow-up pictures are drawn by a network: plausible, not measured. Nothing may be measured in them, and "
    "small findings such as osteophytes are not rendered."
)
UNSEEN_BY_DEFAULT = (
    "The default model learnt from one cohort: the Osteoarthritis Initiative, North America, 45 to 79 years, with or "
    "at risk of knee osteoarthritis. Other people may differ.",
    "It has seen one knee at a time, PA or AP, standing: no lateral or skyline views, no implants, no fractures, no "
    "children.",
    "It has seen no follow-up pictures of real people, only their later grades; grades 3 and 4 are rare.",
)
UNSEEN_BY_ANOTHER = (
    "What the model has not seen is told in its card; compare the people it was trained on with yours."
)


def risk_sentence(horizon: HorizonPrediction) -> str:
    """The two risks of a horizon as numbers of knees in a hundred."""
    return (
        f"Of 100 knees like this one, {_of_100(horizon.risk_any)} are expected to be graded at least one "
        f"Kellgren-Lawrence grade worse within {horizon.horizon_months} months, and {_of_100(horizon.risk_fast)} at "
        "least two."
    )


def share(risk: float, interval: tuple[float, float] | None) -> str:
    """A risk in per cent, and how sure it is."""
    return f"{risk:.1%}" + ("" if interval is None else f" ({interval[0]:.1%} to {interval[1]:.1%})")


def sureness(prediction: Prediction) -> str:
    """What the numbers in brackets are, if there are any."""
    return _UNSURE if any(h.risk_any_interval is None for h in prediction.horizons) else _SURE


def unseen(prediction: Prediction) -> tuple[str, ...]:
    """What the model that predicted has not seen."""
    return UNSEEN_BY_DEFAULT if prediction.provenance.get("model") == "default" else (UNSEEN_BY_ANOTHER,)


def typicality_sentence(prediction: Prediction) -> str:
    """How like the training radiographs this one is."""
    return (
        f"Typicality of this radiograph: {prediction.typicality:.2f}, from 0 (nothing like the training radiographs) "
        "to 1; near 0 the prediction must not be used."
    )


def _of_100(risk: float) -> str:
    number = round(100 * risk)
    if number == 0:
        return "fewer than 1"
    return "more than 99" if number == 100 else f"about {number}"
