"""Augmentations: a record makes its image again, and each does what its name says."""

import json

import pytest
import torch
from PIL import Image

from lookagain.augmentations import augmentation
from lookagain.policy import PolicyError, _noised
from lookagain.schema import AugmentationName
from lookagain.transforms import Noised, apply, diffuse

NAMES = [name for name in AugmentationName.__args__ if name not in ("none", "diffusion")]
DRAWN = ["rr_crop", "random_crop", "affine", "auto_augment", "moco", "byol", "simclr"]


def picture(size=(60, 48)):
    """Every pixel differs from its neighbours: red grows to the right, green downwards, one block is blue."""
    image = Image.merge(
        "RGB",
        [Image.linear_gradient("L").rotate(90).resize(size), Image.linear_gradient("L").resize(size), Image.new("L", size)],
    )
    image.paste((0, 0, 255), (5, 5, 20, 20))
    return image


def shown(name, seed=0):
    return apply(picture(), json.loads(json.dumps(augmentation(name, 500, 0.5, seed))))


@pytest.mark.parametrize("name", NAMES)
def test_a_record_makes_its_image_again(name):
    torch.manual_seed(5)
    first, state = shown(name), torch.get_rng_state()
    torch.manual_seed(6)
    assert shown(name).tobytes() == first.tobytes() != picture().tobytes()
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws change


@pytest.mark.parametrize("name", DRAWN)
def test_draws_follow_the_seed(name):
    assert len({shown(name, seed).tobytes() for seed in range(6)}) > 1


def test_plain_transforms():
    assert shown("flip").getpixel((0, 3)) == picture().getpixel((59, 3))
    assert shown("invert").getpixel((10, 10)) == (255, 255, 0)
    assert shown("center_crop").size == shown("random_crop").size == (30, 24)
    assert shown("center_crop").getpixel((0, 0)) == picture().getpixel((15, 12))
    assert shown("rr_crop").size == shown("moco").size == (60, 48)
    assert augmentation("none", 500, 0.5, 0) == {"name": "none"}
    low = apply(Image.new("RGB", (64, 48), (200, 40, 40)), {"name": "low_resolution", "size": 12})
    assert low.size == (16, 12)
    shade = {"name": "colour_jitter", "brightness": 0.5, "hue": 0.0}
    assert apply(Image.new("RGB", (4, 4), (200, 40, 40)), shade).getpixel((0, 0)) == pytest.approx((100, 20, 20), abs=2)


@pytest.mark.parametrize(("step", "signal", "noise"), [(500, 0.863, 0.505), (600, 0.734, 0.679), (800, 0.467, 0.884)])
def test_diffusion_steps_have_the_published_strength(step, signal, noise):
    flat = diffuse(torch.ones(3, 80, 80), step, 1)
    assert flat.mean().item() == pytest.approx(signal, abs=0.02)
    assert flat.std().item() == pytest.approx(noise, abs=0.02)
    assert torch.equal(flat, diffuse(torch.ones(3, 80, 80), step, 1))
    assert not torch.equal(flat, diffuse(torch.ones(3, 80, 80), step, 2))


def test_noise_acts_on_the_normalised_pixels_of_its_image_alone(policy, images):
    record = augmentation("diffusion", 800, 0.5, 3)
    noised = apply(images[0], record)
    assert noised == Noised(images[0], 800, 3)
    _, (clean, other), _ = policy.prefixes([images[0], images[1]])
    _, (first, again, untouched), _ = policy.prefixes([noised, apply(images[0], record), images[1]])
    assert not torch.allclose(first, clean, atol=1e-3)
    torch.testing.assert_close(again, first)
    torch.testing.assert_close(untouched, other)
    with pytest.raises(PolicyError, match="diffusion noise cannot be added"):
        _noised({"pixel_values": torch.zeros(7, 4)}, [noised])


def test_no_image_has_no_image_tokens(policy, images):
    (blind, seen), (nothing, features), _ = policy.prefixes([None, images[0]])
    token = policy.model.config.image_token_id
    assert nothing is None
    assert len(features) == seen.count(token) > 0 == blind.count(token)
    assert blind == [one for one in seen if one != token]


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown augmentation 'blur'"):
        augmentation("blur", 500, 0.5, 0)
    with pytest.raises(ValueError, match="unknown image transform 'blur'"):
        apply(picture(), {"name": "blur"})
