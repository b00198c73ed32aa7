"""Maps from windows and classes from whole images or windows, in one call: the ways agree where they must."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from mtl_med.errors import UsageError
from mtl_med.loading.resizing import resize_smoothly
from mtl_med.networks import MixedInferer, create_network
from mtl_med.networks.mixed_inferer import IMAGE_MODES
from mtl_med.tasks import Task

LESION = Task("lesion", "segmentation", 1, ("Lesion",))
DIAGNOSIS = Task("diagnosis", "classification", 3, ("a", "b", "c"))
SEVERE = Task("severe", "classification", 2, ("no", "yes"))
MIX = (LESION, DIAGNOSIS, SEVERE)
SMALL = {"channels": (4, 6), "bottleneck": 8, "norm": "instance", "image_width": 8}


class Peek(nn.Module):
    """Classes from the window's mean alone, so that every window's vote is known."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mean = x.flatten(1).mean(1, keepdim=True)
        return {
            "lesion": x[:, :1],  # a view of the window, which must not change under MONAI's hands
            "diagnosis": torch.cat([mean, -mean, torch.zeros_like(mean)], 1),
            "severe": torch.cat([0 * mean, 3 * mean], 1),
        }


@pytest.fixture(scope="module")
def networks() -> dict[int, nn.Module]:
    torch.manual_seed(0)
    return {dims: create_network("ctan", MIX, dims, 1, network_options=SMALL).eval() for dims in (2, 3)}


def random_image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def infer(network: nn.Module, image: Tensor, *args, **options) -> dict[str, Tensor]:
    return MixedInferer(*args, **options)(image, network)


SIZES = [(2, (16, 16), (37, 29)), (2, (24, 16), (24, 41)), (2, (32, 32), (19, 45)), (3, (16, 8, 8), (17, 13, 8))]
SIZE_IDS = ["odd", "one-axis-larger", "one-axis-smaller", "3d"]


@pytest.mark.parametrize(("dims", "patch", "space"), SIZES, ids=SIZE_IDS)
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_maps_equal_those_of_monai(networks, dims: int, patch: tuple, space: tuple, overlap: float) -> None:
    image, network = random_image(2, 1, *space), networks[dims]
    found = infer(network, image, MIX, patch, overlap)["lesion"]
    with torch.no_grad():
        judge = SlidingWindowInferer(patch, 1, overlap, mode="gaussian")(image, lambda x: network(x)["lesion"])
    assert found.shape == (2, 1, *space)
    torch.testing.assert_close(found, judge, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dims", "patch"), [(2, (24, 32)), (3, (16, 12, 20))])
@pytest.mark.parametrize("mode", IMAGE_MODES)
def test_one_window_is_the_whole_pass_exactly(networks, dims: int, patch: tuple, mode: str) -> None:
    image = random_image(2, 1, *patch)
    with torch.no_grad():
        expected = networks[dims](image)
    found = infer(networks[dims], image, MIX, patch, image_mode=mode)
    assert list(found) == ["lesion", "diagnosis", "severe"]
    for name in found:
        assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize(("dims", "patch", "space"), [(2, (24, 24), (17, 23)), (3, (16, 12, 12), (9, 12, 11))])
def test_below_the_window_all_ways_agree_and_padding_is_cut_off(networks, dims, patch, space) -> None:
    image = random_image(2, 1, *space)
    padding = [part for a, b in zip(reversed(space), reversed(patch), strict=True) for part in _halves(b - a)]
    with torch.no_grad():
        padded = networks[dims](F.pad(image, padding))
        judge = SlidingWindowInferer(patch, 1, mode="gaussian")(image, lambda x: networks[dims](x)["lesion"])
    for mode in IMAGE_MODES:
        found = infer(networks[dims], image, MIX, patch, image_mode=mode)
        assert torch.equal(found["diagnosis"], padded["diagnosis"])
        torch.testing.assert_close(found["lesion"], judge, atol=1e-6, rtol=0)


def _halves(amount: int) -> tuple[int, int]:
    return amount // 2, amount - amount // 2


def test_the_whole_image_is_seen_at_its_own_size_or_resized(networks) -> None:
    image = random_image(2, 1, 40, 33)
    with torch.no_grad():
        own, resized = (networks[2](item) for item in (image, resize_smoothly(image, (24, 20))))
    patch = (16, 16)
    assert torch.equal(infer(networks[2], image, MIX, patch)["diagnosis"], own["diagnosis"])
    assert torch.equal(infer(networks[2], image, MIX, patch, full_size=(24, 20))["severe"], resized["severe"])
    # Also where the window would do: what was asked for is the resized image.
    found = infer(networks[2], image, MIX, (48, 48), full_size=(24, 20))
    assert torch.equal(found["diagnosis"], resized["diagnosis"])
    assert found["lesion"].shape == (2, 1, 40, 33)


class TestJoined:
    """Two windows side by side, the first of zeros, the second of ones."""

    IMAGE = torch.cat([torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)], 3)
    VOTES = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]).softmax(1)

    def probabilities(self, mode: str, tasks: tuple = MIX, name: str = "diagnosis") -> Tensor:
        return infer(Peek(), self.IMAGE.clone(), tasks, (8, 8), 0.0, image_mode=mode)[name].softmax(1)

    def test_mean_of_probabilities(self) -> None:
        torch.testing.assert_close(self.probabilities("mean"), self.VOTES.mean(0, keepdim=True))

    def test_largest_of_each_class(self) -> None:
        largest = self.VOTES.amax(0, keepdim=True)
        torch.testing.assert_close(self.probabilities("max"), largest / largest.sum())

    def test_attention_goes_where_structure_is_segmented(self) -> None:
        weights = torch.tensor([0.5, 1 / (1 + math.exp(-1))])  # sigmoid(0) and sigmoid(1)
        expected = (self.VOTES * weights[:, None] / weights.sum()).sum(0, keepdim=True)
        torch.testing.assert_close(self.probabilities("attention"), expected, atol=1e-5, rtol=0)

    def test_without_structures_it_goes_to_windows_that_are_sure(self) -> None:
        # The first window says 1/3 each: entropy log 3, weight 0.
        found = self.probabilities("attention", (DIAGNOSIS,))
        torch.testing.assert_close(found, self.VOTES[1:], atol=1e-5, rtol=0)

    def test_attention_without_any_weight_is_the_mean(self) -> None:
        image = torch.zeros(1, 1, 8, 16)
        found = infer(Peek(), image, (DIAGNOSIS,), (8, 8), 0.0, image_mode="attention")["diagnosis"]
        torch.testing.assert_close(found.softmax(1), torch.full((1, 3), 1 / 3))

    @pytest.mark.parametrize("mode", ["mean", "max", "attention"])
    def test_images_of_a_batch_do_not_mix(self, mode: str) -> None:
        image = random_image(3, 1, 20, 13)
        together = infer(Peek(), image.clone(), MIX, (8, 8), image_mode=mode, windows_at_once=5)
        for index in range(3):
            alone = infer(Peek(), image[index : index + 1].clone(), MIX, (8, 8), image_mode=mode)
            for name, value in alone.items():
                torch.testing.assert_close(together[name][index : index + 1], value)

    def test_the_image_stays_as_it_was_and_an_identity_comes_back_as_it_went_in(self) -> None:
        image = random_image(1, 1, 20, 13)
        given = image.clone()
        found = infer(Peek(), given, MIX, (8, 8), windows_at_once=1)
        assert torch.equal(given, image)
        torch.testing.assert_close(found["lesion"], image)


@pytest.mark.parametrize(
    "tasks", [(LESION,), (DIAGNOSIS,), (DIAGNOSIS, SEVERE)], ids=lambda t: "+".join(i.name for i in t)
)
@pytest.mark.parametrize("mode", IMAGE_MODES)
def test_one_kind_of_task_alone(tasks: tuple, mode: str) -> None:
    found = infer(Peek(), random_image(2, 1, 20, 13), tasks, (8, 8), image_mode=mode)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        task.name: (2, 1, 20, 13) if task.is_pixel_level else (2, task.channels) for task in tasks
    }


def test_a_stacked_network_is_taken_apart() -> None:
    class Stacked(Peek):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return torch.cat([super(Stacked, self).forward(x)[name] for name in ("diagnosis", "severe")], 1)

    image, tasks = random_image(2, 1, 20, 13), (DIAGNOSIS, SEVERE)
    for mode in IMAGE_MODES:
        found, expected = (infer(kind, image, tasks, (8, 8), image_mode=mode) for kind in (Stacked(), Peek()))
        for name in expected:
            assert torch.equal(found[name], expected[name])


class Half(nn.Module):
    """What a network under autocast returns: everything in bf16."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: value.bfloat16() for name, value in Peek()(x).items()}


@pytest.mark.parametrize("mode", IMAGE_MODES)
def test_maps_and_votes_are_summed_in_fp32(mode: str) -> None:
    image = (random_image(2, 1, 40, 24) + 300).bfloat16().float()  # values that bf16 holds exactly
    found = infer(Half(), image, MIX, (8, 8), image_mode=mode)
    assert {value.dtype for value in found.values()} == {torch.float32}
    torch.testing.assert_close(found["lesion"], image, atol=1e-3, rtol=0)  # sums in bf16 would be 1 off


@pytest.mark.parametrize("mode", IMAGE_MODES)
def test_autocast_changes_little(networks, mode: str) -> None:
    image = random_image(2, 1, 40, 33)
    plain = infer(networks[2], image, MIX, (16, 16), image_mode=mode)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = infer(networks[2], image, MIX, (16, 16), image_mode=mode)
    for name, value in plain.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - value).abs().max() < 0.05 * max(1.0, float(value.abs().max()))


def test_memory_is_that_of_a_window_and_the_maps() -> None:
    seen: list[tuple[int, ...]] = []

    class Watch(Peek):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            seen.append(tuple(x.shape))
            return super().forward(x)

    infer(Watch(), random_image(2, 1, 16, 16, 16), (LESION, SEVERE), (8, 8, 8), image_mode="mean", maps_on="cpu")
    assert set(seen) == {(1, 1, 8, 8, 8)}
    assert len(seen) == 2 * 27
    seen.clear()
    infer(Watch(), random_image(1, 1, 16, 16, 16), (LESION, SEVERE), (8, 8, 8), full_size=(4, 4, 4))
    assert set(seen) == {(1, 1, 8, 8, 8), (1, 1, 4, 4, 4)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": (8,)}, "neither 2D nor 3D"),
        ({"patch_size": 8}, "patch_size is 8, expected a whole number for each axis"),
        ({"patch_size": (8.5, 8)}, r"patch_size is \[8.5, 8\], expected whole numbers of at least 1"),
        ({"patch_size": (0, 8)}, "expected whole numbers of at least 1"),
        ({"overlap": "half"}, "overlap is half"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"image_mode": "attn"}, "unknown image_mode 'attn'"),
        ({"full_size": (8, 8, 8)}, r"full_size \[8, 8, 8\] does not fit patch_size \[8, 8\]"),
        ({"full_size": (8, 0)}, "does not fit"),
        ({"full_size": (8, 8), "image_mode": "mean"}, "has no use for full_size"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MixedInferer(**{"tasks": MIX, "patch_size": (8, 8), **options})


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"lesion": torch.zeros(1, 1, 8, 8)}, "predicts no task 'diagnosis'"),
        (
            {"lesion": torch.zeros(1, 1), "diagnosis": torch.zeros(1, 3)},
            r"segmentation task 'lesion' has shape \(1, 1\)",
        ),
        (
            {"lesion": torch.zeros(1, 1, 8, 8), "diagnosis": torch.zeros(1, 3, 8, 8)},
            r"classification task 'diagnosis' has shape \(1, 3, 8, 8\), expected \(1, 3\)",
        ),
        ({"lesion": torch.zeros(1, 1, 4, 4), "diagnosis": torch.zeros(1, 3)}, r"expected \(1, 1, 8, 8\)"),
    ],
    ids=["missing", "vector-for-map", "map-for-vector", "other-size"],
)
def test_an_output_of_another_form_is_refused(output: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MixedInferer((LESION, DIAGNOSIS), (8, 8))(torch.zeros(1, 1, 8, 8), lambda x: output)


@pytest.mark.parametrize("call", [lambda *args: args[0](*args[1:]), lambda *args: args[0].attention(*args[1:])])
def test_a_window_that_the_network_cannot_take_is_named(networks, call) -> None:
    network, image = networks[2], random_image(1, 1, 24, 24)
    with pytest.raises(UsageError, match=r"^window of 1 x 1: the image of 1x1 is too small.* option window_size\.$"):
        call(MixedInferer(MIX, (1, 1), image_mode="mean"), image, network)
    with pytest.raises(UsageError, match=r"^the image of 1x1 is too small"):
        call(MixedInferer(MIX, (1, 1)), image[..., :1, :1], network)


def test_volumes_for_a_2d_network_are_refused() -> None:
    with pytest.raises(UsageError, match="expected \\(batch, channel, 2 axes\\)"):
        MixedInferer(MIX, (8, 8))(torch.zeros(1, 1, 8, 8, 8), Peek())


class TestResize:
    def test_as_the_library_where_nothing_shrinks(self) -> None:
        for space, size, mode in [((7, 5), (13, 12), "bilinear"), ((4, 5, 6), (9, 5, 11), "trilinear")]:
            x = random_image(2, 3, *space)
            expected = F.interpolate(x, size=size, mode=mode, align_corners=False)
            torch.testing.assert_close(resize_smoothly(x, size), expected)

    def test_as_the_librarys_antialiasing_in_2d(self) -> None:
        x = random_image(2, 3, 40, 30)
        expected = F.interpolate(x, size=(17, 44), mode="bilinear", align_corners=False, antialias=True)
        torch.testing.assert_close(resize_smoothly(x, (17, 44)), expected)

    def test_a_ramp_keeps_its_place(self) -> None:
        ramp = (torch.arange(12.0) + 0.5)[None, None, :, None, None].expand(1, 1, 12, 3, 2)
        found = resize_smoothly(ramp, (4, 3, 2))[0, 0, 1:-1, 0, 0]
        torch.testing.assert_close(found, torch.tensor([4.5, 7.5]))
