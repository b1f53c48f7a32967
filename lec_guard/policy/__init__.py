"""scores -> action."""
