"""Other people's files -> visits table. Nothing is downloaded: registered users point at what they hold."""

from progression.data.importers.knees import import_knees
from progression.data.importers.most import import_most
from progression.data.importers.oai import import_oai

__all__ = ["import_knees", "import_most", "import_oai"]
