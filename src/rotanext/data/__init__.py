"""Pictures and labels: reading, cutting, changing, inventing."""
