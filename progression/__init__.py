"""progression: how a knee will look in the future, and the risk that it gets worse.

>>> import progression
>>> predictor = progression.load_predictor("default")
>>> prediction = predictor.predict("knee.png", side="left", horizon_months=[24, 48])  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "Radiograph", "__version__", "load_predictor"]

if TYPE_CHECKING:
    from progression.predict import Predictor, load_predictor
    from progression.types import Prediction, Radiograph


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in ("Predictor", "load_predictor"):
        from progression import predict

        return getattr(predict, name)
    if name in ("Prediction", "Radiograph"):
        from progression import types

        return getattr(types, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
