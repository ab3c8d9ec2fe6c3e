"""Exercises of lesson 02: pixel classification and the U-Net."""
