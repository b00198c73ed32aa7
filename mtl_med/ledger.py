"""Which cases of a folder of predictions are finished, and what made them: the folder's `run.json`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_med.bundle import boolean
from mtl_med.errors import MtlMedError
from mtl_med.files import json_fault, read_json, sha256_file
from mtl_med.io.classification_table import CLASSIFICATION_FILE, Decision, write_classification
from mtl_med.loading.datalist import study_fingerprint
from mtl_med.provenance import write_record
from mtl_med.tasks import Task, as_tasks

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)

_NOTE = {"image": list, "files": [str], "decisions?": {...: list}}
_AT_ONCE = 100  # so many cases are each written down as they finish, later ones once a second
_WAIT_S = 1.0


class Ledger:
    """Note each predicted case, so that a run that was stopped goes on with the others.

    A case counts as finished while its image is as it was, every file written for it is there, and weights, study and
    settings are the same. What image-level tasks predict is noted too, and written as `classification.csv` from these
    notes, so that the table always holds the finished cases and no other. A process that is killed loses the notes of
    at most a second.

    Args:
        output_dir: folder of the predictions.
        weights: the network's weights; known by their hash.
        source: the study folder or folder of CT images.
        settings: what else decides what is predicted, as plain JSON values.
        overwrite: predict all cases again.
        tasks: what is predicted, which is a setting too; image-level tasks among them get the table.

    Raises:
        UsageError: `overwrite` is neither true nor false.
    """

    def __init__(
        self,
        output_dir: str | Path,
        weights: str | Path,
        source: str | Path,
        settings: Mapping[str, Any],
        overwrite: Any = False,
        tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task] = (),
    ) -> None:
        self.folder = Path(output_dir)
        listed = as_tasks(tasks) if tasks else ()
        described = {task.name: task.to_dict() for task in listed}
        self.image_tasks = tuple(task for task in listed if not task.is_pixel_level)
        self._written_s = 0.0
        sha256 = sha256_file(weights) if Path(weights).is_file() else ""
        self.fields: dict[str, Any] = {
            "weights": {"path": str(weights), "sha256": sha256},
            "source": str(source),
            "hashes": {"fingerprint": study_fingerprint(source)},
            "settings": json.loads(json.dumps({**settings, **({"tasks": described} if listed else {})})),
        }
        self.finished: dict[str, Any] = {}
        before = {} if boolean(overwrite, "overwrite") else self._before()
        if before and self._identity(before) == self._identity(self.fields):
            self.finished = dict(before.get("finished", {}))

    def unfinished(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The items that are still to be predicted."""
        left = [item for item in items if not self._is_finished(item)]
        known = {item["id"] for item in items}
        others = [case_id for case_id in self.finished if case_id not in known]
        if others:
            told = "%s holds %d cases of earlier calls that are not among the %d of this one (such as %s): they stay"
            _log.warning(told, self.folder, len(others), len(items), others[0])
        if len(left) < len(items):
            _log.info("%d of %d cases are predicted already", len(items) - len(left), len(items))
        return left

    def note(self, case_id: str, source: str | Path, decisions: Mapping[str, Decision] | None = None) -> None:
        """Count a case as finished, once everything of it is written.

        Args:
            case_id: id of the case.
            source: its image.
            decisions: image-level task -> decided class, and probability of each class.
        """
        folder = self.folder / case_id
        files = sorted(path.name for path in folder.glob("*") if path.is_file())
        noted: dict[str, Any] = {"image": _state_of(Path(source)), "files": files}
        if decisions:
            noted["decisions"] = {
                task: [name, [float(value) for value in values]] for task, (name, values) in decisions.items()
            }
        self.finished[case_id] = noted
        if len(self.finished) <= _AT_ONCE or time.monotonic() - self._written_s > _WAIT_S:
            self.write({})

    def write(self, failures: Mapping[str, str]) -> None:
        """Leave `run.json` beside the predictions, and the table of what image-level tasks predict.

        Args:
            failures: id -> sentence, of the cases that could not be predicted.
        """
        if self.image_tasks:
            rows = {case_id: noted.get("decisions", {}) for case_id, noted in self.finished.items()}
            write_classification(self.folder / CLASSIFICATION_FILE, self.image_tasks, rows)
        fields = {**self.fields, "cases": len(self.finished) + len(failures), "failed": dict(failures)}
        packages = ("torch", "monai", "numpy")
        write_record(self.folder / "run.json", "predict", {**fields, "finished": self.finished}, packages)
        self._written_s = time.monotonic()

    def _before(self) -> dict[str, Any]:
        try:
            found = read_json(self.folder / "run.json") if (self.folder / "run.json").is_file() else {}
        except MtlMedError:  # damaged: everything is predicted again
            return {}
        return {} if json_fault(found, {"finished?": {...: _NOTE}}) else found

    @staticmethod
    def _identity(fields: Mapping[str, Any]) -> list[Any]:
        weights = fields.get("weights")
        return [
            weights.get("sha256") if isinstance(weights, dict) else None,
            fields.get("hashes"),
            fields.get("settings"),
        ]

    def _is_finished(self, item: Mapping[str, Any]) -> bool:
        noted = self.finished.get(item["id"])
        if noted is None or "error" in item or noted["image"] != _state_of(Path(item["source"])):
            self.finished.pop(item["id"], None)
            return False
        decided = {task.name for task in self.image_tasks} <= set(noted.get("decisions", {}))
        if decided and all((self.folder / item["id"] / name).is_file() for name in noted["files"]):
            return True
        del self.finished[item["id"]]
        return False


def _state_of(path: Path) -> list[int]:
    """Size and time of change of a file; empty where there is none."""
    if not path.is_file():
        return []
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
