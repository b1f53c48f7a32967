"""Over HTTP: the page for reviewers, and a place to try policies."""
