"""Files with changed bytes end in a sentence or in a case: never in a crash or a hang, and the others go on."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtl_med.errors import MtlMedError
from mtl_med.prep.readers.dicom_rt import read, scan
from mtl_med.prep.recipe import Recipe
from tests.mutations import mutated

MadeStudy = Callable[..., "object"]
SEEDS = 200
AT_ONCE = 8


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_a_mutated_file_is_refused_told_or_harmless(
    made_study: MadeStudy, with_options: Callable[..., Recipe], tmp_path: Path, first: int
) -> None:
    study = made_study(patient="BAD").ct().rtstruct().rtplan(prescriptions=[(3, 66.0)]).rtdose(plan=1, structures=1)
    other = made_study(folder="other", patient="GOOD", number=2).ct().rtstruct()
    recipe = with_options()
    images = [path for path in study.written if path.name.startswith("CT")]
    for seed in range(first, first + AT_ONCE):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        (folder / "good").mkdir(parents=True)
        for path in study.written:
            os.link(path, folder / path.name)
        for path in other.written:
            os.link(path, folder / "good" / path.name)
        victim = folder / rng.choice([*(path.name for path in study.written[-3:]), rng.choice(images).name])
        data = mutated(victim.read_bytes(), rng)
        victim.unlink()
        victim.write_bytes(data)
        started = time.process_time()
        good = 0
        for source in scan(folder, recipe):
            try:
                case = read(source, recipe) if not source.fault else None
            except MtlMedError as error:
                assert str(error), seed
                continue
            good += source.patient == "GOOD" and case is not None and len(case.masks) == 3
            if case is not None and source.patient == "BAD":
                whole = case.grid.shape == (12, 10, 6) and {"dose", "mask_dose"} <= set(case.volumes)
                assert (whole and len(case.masks) == 3) or case.remarks, seed
                assert all(np.isfinite(volume).all() for volume in case.volumes.values()), seed
        assert good == 1, f"{seed}: the other patient is read as ever"
        assert time.process_time() - started < 5, seed
