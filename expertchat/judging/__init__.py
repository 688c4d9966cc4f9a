"""How text is judged: ratings, WIM responses, rewards. Each prompt stands beside its parser."""
