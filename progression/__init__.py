"""progression: how a joint will look in the future, and how sure we are."""

__version__ = "0.1.0"
