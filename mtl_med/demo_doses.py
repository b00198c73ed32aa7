"""The demo of the OpenKBP bundle: dose and organs of made-up heads, and made-up pelvises from DICOM."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mtl_med.demo import Demo, Step

__all__ = ["DoseDemo"]

BASELINE = "combination"
# Phantoms: enough to learn from within minutes on two cores.
TRAIN_PATIENTS, VALIDATION_PATIENTS = 14, 3
# Pelvises as DICOM, one in the manner of each vendor.
DICOM_PATIENTS, DICOM_SHAPE = 5, (96, 80, 56)


@dataclass(frozen=True)
class DoseDemo(Demo):
    """Dose and organs at risk of the head and neck; with phantoms also the way from DICOM to a study."""

    minutes: float = 3.5

    bundle = "openkbp_dose_oar_segmentation"
    dataset = "openkbp"
    raw = "provided-data of open-kbp"
    # Many cheap steps: in a few minutes small patches learn more than large ones.
    training = ("--inputs", "ct+ptv", "--patch_size", "[64, 64, 64]", "--repeats", "10")

    @property
    def exports(self) -> Path:
        """What a clinic's export would be."""
        return self.out / "exports"

    def make_phantoms(self) -> None:
        """Heads as CSV tables, pelvises as DICOM."""
        from mtl_med.phantoms import write_openkbp_cohort
        from mtl_med.phantoms.dicom_cohort import write_dicom_cohort

        write_dicom_cohort(self.exports, patients=DICOM_PATIENTS, shape=DICOM_SHAPE, workers=self.workers)
        write_openkbp_cohort(self.source, train=TRAIN_PATIENTS, validation=VALIDATION_PATIENTS, workers=self.workers)

    def dicom_steps(self) -> list[Step]:
        """The same for DICOM studies: to a study folder."""
        study = str(self.out / "dicom_study")
        prep = ["--source", str(self.exports), "--out", study, "--workers", str(self.workers)]
        return [
            ("look at a clinic's DICOM export", ["python", "-m", "mtl_med.prep", "dicom_rt", *prep[:2], "--check"]),
            ("prepare it without names", ["python", "-m", "mtl_med.prep", "dicom_rt", *prep, "--deidentify"]),
        ]

    def steps(self) -> list[Step]:
        """Every step behind the raw data, as one would type it."""
        out = str(self.out)
        baseline = ["--kind", BASELINE, "--study", str(self.study), "--out", f"{out}/baseline"]
        return [
            self.prepare("raw CSV to a study folder of NIfTI files"),
            self.train(),
            self.predict("dose and organs of the validation patients"),
            ("for comparison: the median dose per combination of structures", ["mtl-med", "baseline", *baseline]),
            self.evaluate("score the comparison", f"{out}/baseline", f"{out}/baseline/metrics.csv"),
            self.evaluate("score the network", str(self.predictions), f"{out}/metrics.csv"),
            self.report(f"{out}/baseline"),
            *([] if self.data else self.dicom_steps()),
        ]

    def result(self) -> Iterable[str]:
        """The short table, the comparison beside it, and what to open."""
        from mtl_med.metrics.rows import read_rows
        from mtl_med.metrics.summary import overall

        rows = read_rows(self.out / "metrics.csv")
        ours, baseline = overall(rows), overall(read_rows(self.out / "baseline" / "metrics.csv"))
        cases = sorted({row.case for row in rows if row.case})
        who = "real patients" if self.data else "phantom patients, which say nothing about real ones"
        yield f"Result on {len(cases)} {who}: {self.method.upper()} after {self.minutes:g} minutes of training"
        yield f"  {'':<20}{self.method.upper():>8}   median dose per combination of structures"
        for key, label in (("dose_score", "dose score (Gy)"), ("dvh_score", "DVH score (Gy)")):
            below = 100 * (1 - ours[key] / baseline[key])
            gap = f"{below:.0f} % below" if below >= 0 else f"{-below:.0f} % above"
            yield f"  {label:<20}{ours[key]:8.2f}   {baseline[key]:.2f} ({gap} it)"
        for key, value in ours.items():
            if key.startswith("dice/"):
                yield f"  Dice {key.removeprefix('dice/'):<15}{value:8.2f}"
        yield f"  {'mean Dice':<20}{ours['mean_dice']:8.2f}"
        yield ""
        yield f"Look at this first: {self.out / 'report' / 'index.html'}"
        yield f"Every score: {self.out / 'metrics.csv'}"
        yield "Open in 3D Slicer (File > Add Data), dose in Gy, overlapping structures kept:"
        for name in ("ct.nii.gz", "dose.nii.gz", "structures.seg.nrrd"):
            yield f"  {self.predictions / cases[0] / name}"
        yield f"The truth beside it: {self.study / 'cases' / cases[0]}"
        yield f"Which cases to look at: {self.study / 'quality.html'}"
        if self.data is None:
            yield f"The same of made-up pelvises from DICOM: {self.out / 'dicom_study' / 'quality.html'}"
        yield f"Planned beside predicted dose: {', '.join(map(str, self._pictures()))}"

    def _pictures(self) -> list[Path]:
        """Draw every predicted case."""
        from mtl_med.manifest import Manifest
        from mtl_med.pictures import case_picture

        drawn = []
        for case in Manifest.read(self.study):
            if (self.predictions / case.id).is_dir():
                drawn.append(self.out / f"{case.id}.png")
                case_picture(case, self.predictions / case.id, drawn[-1])
        return drawn
