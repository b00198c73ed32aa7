"""Made-up head-and-neck patients for the demo, tests and examples: real physics in outline, never real data."""

from mtl_med.phantoms.openkbp import NOTE_NAME, write_openkbp_cohort, write_openkbp_patient
from mtl_med.phantoms.patient import Phantom, make_phantom

__all__ = ["NOTE_NAME", "Phantom", "make_phantom", "write_openkbp_cohort", "write_openkbp_patient"]
