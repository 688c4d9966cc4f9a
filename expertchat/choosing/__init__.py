"""Best of N: candidates of one prompt, of which a judge chooses one, and what another judge says of the choice."""
