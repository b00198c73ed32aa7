"""Loading: from a study folder to batches."""

from mtl_med.loading.datalist import (
    INPUTS,
    check_inputs,
    input_channels,
    input_items,
    median_spacing,
    spacing_for,
    study_facts,
    study_items,
)
from mtl_med.loading.dataset import EpochSampler, SampleKey, SeededCacheDataset, training_loader, validation_loader
from mtl_med.loading.pipelines import inference_transforms, training_transforms, validation_transforms

__all__ = [
    "INPUTS",
    "EpochSampler",
    "SampleKey",
    "SeededCacheDataset",
    "check_inputs",
    "inference_transforms",
    "input_channels",
    "input_items",
    "median_spacing",
    "spacing_for",
    "study_facts",
    "study_items",
    "training_loader",
    "training_transforms",
    "validation_loader",
    "validation_transforms",
]
