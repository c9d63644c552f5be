"""This machine: files written whole, devices and processes, what is installed, progress, signals."""
