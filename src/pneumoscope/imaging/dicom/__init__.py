"""DICOM radiographs: a data set read safely, the film it is checked to be, its pixels and its greys."""
