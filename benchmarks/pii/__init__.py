"""How much personal data is found, and how much is taken for it."""
