"""Annotation files of labelling tools, read and written."""
