"""Image augmentations by name, as records: all that `transforms.apply` needs to make an augmented image again.

SeVa's Table 1 and Fig. 2 name them; its repository holds the diffusion noise alone, so the others have the defaults that their
own papers published, or, where there are none (affine, the crops), the values below. A draw comes from the recorded seed.
"""

from __future__ import annotations

from typing import Any

CLEAN: dict[str, Any] = {"name": "none"}

# Crop: share of the area; jitter: brightness, contrast, saturation, hue, with probability jitter_p; blur: sigma in px.
VIEWS: dict[str, dict[str, Any]] = {
    # MoCo v2 (Chen et al., 2020)
    "moco": {"crop": [0.2, 1.0], "jitter": [0.4, 0.4, 0.4, 0.1], "blur_p": 0.5, "solarize_p": 0.0},
    # BYOL (Grill et al., 2020), appendix B: the first of its two views
    "byol": {"crop": [0.08, 1.0], "jitter": [0.4, 0.4, 0.2, 0.1], "blur_p": 1.0, "solarize_p": 0.0},
    # SimCLR (Chen et al., 2020), appendix A, colour strength 1
    "simclr": {"crop": [0.08, 1.0], "jitter": [0.8, 0.8, 0.8, 0.2], "blur_p": 0.5, "solarize_p": 0.0},
}
VIEW = {"jitter_p": 0.8, "grey_p": 0.2, "blur": [0.1, 2.0], "flip_p": 0.5}  # what the three share
AFFINE = {"degrees": 30.0, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 10.0}


def augmentation(name: str, noise_step: int, crop_share: float, seed: int) -> dict[str, Any]:
    """The record of one draw of an augmentation.

    flip and invert always flip and invert (an image left as it is gives the clean answer, and no pair). crop_share: rr_crop's
    smallest share of the area, random_crop's and center_crop's share of each side. noise_step: of diffusion, 0 to 999.
    Raises ValueError for an unknown name.
    """
    if name == "none":
        return CLEAN
    if name in ("flip", "invert"):
        return {"name": name}
    if name == "center_crop":
        return {"name": name, "share": crop_share}
    settings: dict[str, dict[str, Any]] = {
        "random_crop": {"share": crop_share},
        "rr_crop": {"crop": [crop_share, 1.0]},
        "affine": AFFINE,
        "auto_augment": {},
        "diffusion": {"step": noise_step},
        **{view: own | VIEW for view, own in VIEWS.items()},
    }
    if name not in settings:
        raise ValueError(f"unknown augmentation {name!r}; known: none, flip, invert, center_crop, {', '.join(settings)}")
    return {"name": name, **settings[name], "seed": seed}
