"""Made-up patients for the demo, tests and examples: real physics in outline, never real data."""

from mtl_med.phantoms.chest import ChestPhantom, make_chest, write_stoic_cohort
from mtl_med.phantoms.openkbp import NOTE_NAME, write_openkbp_cohort, write_openkbp_patient
from mtl_med.phantoms.patient import Phantom, make_phantom
from mtl_med.phantoms.pelvis import PelvisPhantom, make_pelvis

__all__ = [
    "NOTE_NAME",
    "ChestPhantom",
    "PelvisPhantom",
    "Phantom",
    "make_chest",
    "make_pelvis",
    "make_phantom",
    "write_openkbp_cohort",
    "write_openkbp_patient",
    "write_stoic_cohort",
]
