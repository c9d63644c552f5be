"""Images and labels: reading, cutting, changing, inventing."""
