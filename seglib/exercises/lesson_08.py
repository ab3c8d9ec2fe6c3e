"""Exercises of lesson 08: use and deployment."""
