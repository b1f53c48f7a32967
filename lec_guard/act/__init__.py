"""action -> effect."""
