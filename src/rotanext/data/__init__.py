"""Data sets: DOTA folders and label files, tiles, augmentation, selection."""
