"""Exercises of lesson 01: data preparation."""
