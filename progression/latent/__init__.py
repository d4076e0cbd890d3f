"""Codes of knees: finding them, comparing them, moving them on in time."""
