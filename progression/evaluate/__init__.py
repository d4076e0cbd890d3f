"""Evaluations behind ``progression evaluate``: each returns a dict, writes JSON and prints one table."""
