"""Grading a radiograph, and the risk that the grade rises."""
