"""One of several texts to one same prompt: which is the best, asked in every order in which they can stand."""
