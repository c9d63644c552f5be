"""One training run: its loop, its processes, its states on disk."""
