"""Side-by-side timings against the field's usual code: `make bench`, see `__main__`."""
