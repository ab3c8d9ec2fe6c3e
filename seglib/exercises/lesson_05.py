"""Exercises of lesson 05: cardiac volumes and ASPP."""
