"""Labels of other tools: reading, writing, converting and checking them. The core never imports this package."""
