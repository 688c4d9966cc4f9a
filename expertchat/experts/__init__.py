"""Who speaks: one file a model family, facts only."""
