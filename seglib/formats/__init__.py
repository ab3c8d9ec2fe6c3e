"""Reading and writing the formats of images and masks: pictures, DICOM and NIfTI."""
