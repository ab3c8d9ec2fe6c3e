"""Exercises of lesson 06: any pictures, large images."""
