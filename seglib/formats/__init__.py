"""How a file becomes pixels and back: pictures, DICOM, NIfTI."""
