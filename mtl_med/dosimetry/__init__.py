"""Doses as a physicist judges them: DVHs, gamma and clinical goals, from study folders, NIfTI or DICOM.

The maths are pure functions in `mtl_med.metrics`; here are the commands `mtl-med dvh` and `mtl-med gamma`, the goals
with their presets, and what reads doses and structures for them.
"""
