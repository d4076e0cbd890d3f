"""Pictures and files that tell a prediction: figures, animations, JSON."""
