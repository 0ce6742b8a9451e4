"""What only the notebooks and the tools that build the book need; the library imports nothing of it."""
