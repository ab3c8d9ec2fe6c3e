"""Exercises of lesson 09: from masks to a finding."""
