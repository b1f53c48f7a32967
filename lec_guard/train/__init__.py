"""examples -> heads; nothing at run time uses it."""
