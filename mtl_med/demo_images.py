"""The demos of bundles that classify: made-up photographs of lesions and made-up chests, to scores and figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mtl_med.demo import Demo, Step

__all__ = ["ChestDemo", "ImageDemo", "LesionDemo"]

# Learns the phantoms within a minute on two cores.
SMALL_NETWORK = ("--network_options#channels", "[16, 32, 64]", "--network_options#image_width", "64")


@dataclass(frozen=True)
class ImageDemo(Demo):
    """What demos of image-level tasks share."""

    @property
    def shows_attention(self) -> bool:
        """Whether pictures of where the network looks are drawn: of the methods that mask."""
        return self.method.startswith(("ctan", "mtan"))

    def steps(self) -> list[Step]:
        """Every step behind the raw data, as one would type it."""
        table, figures = f"{self.out}/metrics.csv", f"{self.out}/figures"
        return [
            self.prepare("raw data to a study folder"),
            self.train(),
            self.predict("the validation cases", *(("--attention", "true") if self.shows_attention else ())),
            self.evaluate("score the network", str(self.predictions), table, "--figures", figures),
            self.report(),
        ]

    def result(self) -> Iterable[str]:
        """The short table, guessing beside it, and what to open."""
        from mtl_med.metrics.image_rows import images_of
        from mtl_med.metrics.rows import read_rows
        from mtl_med.metrics.summary import overall

        rows = read_rows(self.out / "metrics.csv")
        ours, cases = overall(rows), sorted({row.case for row in rows if row.case})
        who = "real images" if self.data else "phantom images, which say nothing about real ones"
        yield f"Result on {len(cases)} {who}: {self.method.upper()} after {self.minutes:g} minutes of training"
        yield f"  {'':<30}{self.method.upper():>8}   always the most frequent class"
        if "mean_dice" in ours:
            yield f"  {'Dice of the mask':<30}{ours['mean_dice']:8.2f}"
        for task, images in images_of(row for row in rows if row.case).items():
            counts = [count for k in range(len(images.class_names)) if (count := int((images.truth == k).sum()))]
            guessed = {"accuracy": max(counts) / sum(counts), "balanced_accuracy": 1 / len(counts), "auc": 0.5}
            for key, label in (("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy"), ("auc", "AUC")):
                yield f"  {f'{task}: {label}':<30}{ours[f'{key}/{task}']:8.2f}   {guessed[key]:.2f}"
        yield ""
        yield f"Look at this first: {self.out / 'report' / 'index.html'}"
        yield f"Every score, with intervals: {self.out / 'metrics.csv'}"
        yield f"ROC curves, confusion matrix, calibration: {self.out / 'figures'}"
        yield f"Decision and probabilities of every image: {self.predictions / 'classification.csv'}"
        yield f"Which cases to look at: {self.study / 'quality.html'}"
        yield from self.to_open(cases[0])

    def to_open(self, case: str) -> Iterable[str]:
        """Files of one case."""
        if self.shows_attention:
            drawn = sorted((self.predictions / case).glob("attention_*.png"))
            yield f"Where each task looks: {', '.join(map(str, drawn))}"


class LesionDemo(ImageDemo):
    """Outline and diagnosis of skin lesions."""

    bundle = "ham10000_lesion_classification"
    dataset = "ham10000"
    raw = "of HAM10000, unpacked"
    training = (
        *SMALL_NETWORK,
        "--encoder",
        "plain",
        "--image_size",
        "[48, 64]",
        "--batch_size",
        "16",
        "--repeats",
        "4",
    )

    def make_phantoms(self) -> None:
        """Some two hundred photographs."""
        from mtl_med.phantoms.lesions import write_ham10000_cohort

        write_ham10000_cohort(self.source, lesions=150, size=(160, 120), workers=self.workers)

    def to_open(self, case: str) -> Iterable[str]:
        """The mask and the truth, and where the network looks."""
        mask, truth = self.predictions / case / "mask.png", self.study / "cases" / case / "mask.png"
        yield f"A mask, and the truth: {mask}, {truth}"
        yield from super().to_open(case)


class ChestDemo(ImageDemo):
    """COVID-19 and its severity in chest CTs."""

    bundle = "stoic_covid_classification"
    dataset = "stoic"
    raw = "of STOIC, which holds data and metadata"
    training = (*SMALL_NETWORK, "--volume_size", "[48, 40, 40]", "--repeats", "2")

    def make_phantoms(self) -> None:
        """A hundred chests, so that ten are left to calibrate on."""
        from mtl_med.phantoms import write_stoic_cohort

        write_stoic_cohort(self.source, patients=100, shape=(80, 80, 56), workers=self.workers)
