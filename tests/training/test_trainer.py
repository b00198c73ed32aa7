"""The engine: what it hands to the network, batches without labels, a loss that is not finite, ranks without cases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.inferers import SimpleInferer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mtl_med.errors import MtlMedError, find_error
from mtl_med.networks import create_network
from mtl_med.tasks import Task
from mtl_med.training import MultiTaskEvaluator, MultiTaskLoss, MultiTaskTrainer, parameter_groups
from mtl_med.training.trainer import move_batch

TASKS = (Task("oar", "segmentation", 2, ("a", "b")), Task("dose", "regression", unit="Gy"))
SIZE = (24, 24, 24)
CPU = torch.device("cpu")


def batch(oar: bool = True, dose: bool = True, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "id": ["x"],
        "image": torch.randn(1, 1, *SIZE, generator=generator),
        "oar": (torch.rand(1, 2, *SIZE, generator=generator) < 0.1).to(torch.uint8),
        "labelled_oar": torch.tensor([[oar, False]]),
        "dose": 70 * torch.rand(1, 1, *SIZE, generator=generator),
        "labelled_dose": torch.tensor([[dose]]),
        "mask_dose": torch.ones(1, 1, *SIZE, dtype=torch.uint8),
    }


def trainer(batches: list[dict], method: str = "ctan", **options: Any) -> MultiTaskTrainer:
    torch.manual_seed(0)
    network = create_network(method, TASKS, channels=(4, 8), bottleneck=8, stem_stride=2, output_scales={"dose": 70.0})
    fixed = {"weights": options.pop("weights")} if "weights" in options else None
    loss = MultiTaskLoss(TASKS, options.pop("weighting", "dwa"), weighting_options=fixed)
    optimizer = torch.optim.AdamW(parameter_groups(network, loss), lr=1e-3)
    loader: DataLoader = DataLoader(batches, batch_size=None)
    return MultiTaskTrainer(CPU, 1, loader, network, optimizer, loss, max_grad_norm=10.0, **options)


def weights(engine: MultiTaskTrainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in engine.network.named_parameters()}


class TestMoveBatch:
    @pytest.mark.parametrize(
        ("shape", "layout"), [((2, 3, 4, 5), torch.channels_last), ((2, 3, 4, 5, 6), torch.channels_last_3d)]
    )
    def test_the_image_is_channels_last_and_equal(self, shape: tuple[int, ...], layout: torch.memory_format) -> None:
        given = {"image": torch.randn(shape), "dose": torch.randn(shape), "id": ["a", "b"]}
        moved = move_batch(given, CPU)
        assert moved["image"].is_contiguous(memory_format=layout)
        assert torch.equal(moved["image"], given["image"])
        assert moved["dose"].is_contiguous()
        assert moved["id"] == ["a", "b"]
        assert given["image"].is_contiguous(), "the given batch is left alone"


class TestMissingLabels:
    @pytest.mark.parametrize(
        ("oar", "dose"), [(True, False), (False, True), (False, False)], ids=["dose", "oar", "all"]
    )
    @pytest.mark.parametrize("weighting", ["dwa", "uncertainty"])
    def test_weights_stay_finite_and_learn_from_what_is_there(self, oar: bool, dose: bool, weighting: str) -> None:
        unknown = batch(oar, dose)
        unknown |= {} if dose else {"dose": torch.full_like(unknown["dose"], torch.nan)}
        engine = trainer([unknown] * 2, weighting=weighting)
        before = weights(engine)
        engine.run()
        after = weights(engine)
        assert torch.isfinite(engine.state.output["loss"])
        assert all(bool(value.isfinite().all()) for value in after.values())
        gradients = {name: parameter.grad for name, parameter in engine.network.named_parameters()}
        assert all(value is not None for value in gradients.values()), (
            "or data-parallel ranks would wait for each other"
        )

        def moved(part: str) -> bool:
            return any(bool(gradients[name].any()) for name in before if name.startswith(part))

        assert moved("decoders.oar") == oar
        assert moved("decoders.dose") == dose
        assert moved("encoder") == (oar or dose)

    def test_the_count_says_what_was_labelled(self) -> None:
        engine = trainer([batch(dose=False)])
        engine.run()
        terms = engine.state.output["tasks"]
        assert {name: float(term.count) for name, term in terms.items()} == {"oar": 1.0, "dose": 0.0}


def test_a_loss_that_is_not_finite_ends_the_run_before_it_destroys_the_weights() -> None:
    broken = batch()
    broken["image"][:] = torch.nan
    engine = trainer([batch(), broken])
    seen = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(weights(engine)))
    with pytest.raises(MtlMedError, match=r"the loss is nan in step 2\. Lower --learning_rate") as caught:
        engine.run()
    assert find_error(caught.value) is caught.value
    assert all(torch.equal(value, seen[0][name]) for name, value in weights(engine).items())


def test_the_inferer_can_be_chosen() -> None:
    class Half(SimpleInferer):
        def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return {name: value * 0 for name, value in network(inputs).items()}

    engine = trainer([batch()], inferer=Half())
    engine.run()
    assert float(engine.state.output["tasks"]["dose"].total) == pytest.approx(float(batch()["dose"].mean()), rel=1e-5)


def test_a_run_that_is_over_does_nothing() -> None:
    engine = trainer([batch()])
    engine.state.epoch = 1
    before = weights(engine)
    engine.run()
    assert engine.state.iteration == 0
    assert all(torch.equal(value, before[name]) for name, value in weights(engine).items())


class TestEvaluator:
    def evaluator(self, batches: list[dict]) -> MultiTaskEvaluator:
        class Oracle(nn.Module):
            """Perfect organs, half the dose."""

            def forward(self, image: Tensor) -> dict[str, Tensor]:
                return {"oar": image.repeat(1, 2, 1, 1, 1) - 0.5, "dose": image * 35}

        return MultiTaskEvaluator(CPU, DataLoader(batches, batch_size=None), Oracle(), TASKS, SimpleInferer())

    def case(self) -> dict[str, Any]:
        truth = (torch.arange(64.0).reshape(1, 1, 4, 4, 4) % 3 == 0).float()
        return {
            **{"image": truth, "oar": truth.repeat(1, 2, 1, 1, 1), "labelled_oar": torch.tensor([[True, True]])},
            **{"dose": 70 * truth, "labelled_dose": torch.tensor([[True]]), "mask_dose": torch.ones_like(truth)},
        }

    def test_scores(self) -> None:
        evaluator = self.evaluator([self.case(), self.case()])
        evaluator.run()
        assert evaluator.state.metrics == pytest.approx({"score": 0.75, "score/oar": 1.0, "score/dose": 0.5})

    def test_a_rank_without_cases_has_scores_too(self) -> None:
        """Alone it scores zero; with others it gets their sums, and they do not wait for it in vain."""
        evaluator = self.evaluator([])
        evaluator.run()
        assert evaluator.state.metrics == {"score": 0.0, "score/oar": 0.0, "score/dose": 0.0}


def test_a_largest_norm_of_zero_switches_clipping_off() -> None:
    """As elsewhere; else every gradient would become zero and the run would learn nothing."""
    found = []
    for norm in (0.0, None):
        engine = trainer([batch()])
        engine.max_grad_norm = norm
        engine.run()
        found.append([parameter.grad.clone() for parameter in engine.network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert any(bool(gradient.any()) for gradient in found[0])


@pytest.mark.parametrize(("method", "alone"), [("stl", True), ("hps", False)])
def test_disjoint_networks_are_clipped_each_on_its_own(method: str, alone: bool) -> None:
    """A steep loss of one task must not shorten the step of a network that has nothing to do with it."""
    found = []
    for factor in (1.0, 1000.0):
        engine = trainer([batch()], method, weighting="fixed", weights={"oar": 1.0, "dose": factor})
        engine.max_grad_norm = 1e-3  # so that every gradient is clipped
        engine.run()
        part = "nets.oar." if method == "stl" else "decoders.oar."
        found.append([p.grad.clone() for name, p in engine.network.named_parameters() if name.startswith(part)])
    same = all(torch.allclose(a, b, rtol=1e-4, atol=0.0) for a, b in zip(*found, strict=True))
    assert same == alone
