"""Where people look at trials side by side: derived from the truth under `runs/`, rebuilt at will, never in a run's way."""
