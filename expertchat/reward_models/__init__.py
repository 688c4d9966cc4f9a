"""Models that give replies a number: trained on pairs, ratings and people's labels, measured as judges are, and judges themselves."""
