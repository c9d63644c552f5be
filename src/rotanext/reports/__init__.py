"""What people look at: pages, charts, crops."""
