"""Exercises of lesson 04: lungs and domain shift."""
