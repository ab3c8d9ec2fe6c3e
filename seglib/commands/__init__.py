"""The commands of `python -m seglib`: a module for each group of them, and their arguments."""
