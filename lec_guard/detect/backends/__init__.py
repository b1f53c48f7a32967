"""What a cut model runs on: the same features within a stated tolerance."""
