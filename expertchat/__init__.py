"""ExpertChat: conversations between language models that talk as experts, and models that learn from them."""

__version__ = "0.1.0"
