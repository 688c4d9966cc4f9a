"""Models that are served to runs by vLLM: started in its own environment, found by others, stopped in order."""
