"""Exercises of lesson 07: evaluation."""
