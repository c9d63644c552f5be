"""Files of weights: read without executing anything, of every known layout, and our own."""
