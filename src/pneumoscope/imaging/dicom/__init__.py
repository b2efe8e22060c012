"""DICOM radiographs: parsing, check of modality and view, pixel decoding, grey transformations."""
