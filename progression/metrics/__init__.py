"""Figures of merit: discrimination, calibration, agreement of grades, pictures and distributions."""
