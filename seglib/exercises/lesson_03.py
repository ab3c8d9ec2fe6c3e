"""Exercises of lesson 03: several classes, fine-tuning."""
