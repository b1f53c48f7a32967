"""text -> scores."""
