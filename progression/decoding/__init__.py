"""Decoders that are not ours, and what keeps them within bounds."""
