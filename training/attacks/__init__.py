"""What is done to clean images: attacks, noise twins and corruptions; 8-bit images in, 8-bit images out."""

from training.attacks.attacks import (
    ATTACKS,
    Distance,
    attack_images,
    check_attack,
    draw_parameters,
    linf_bound,
    make_attack,
    noise_twin,
)

__all__ = [
    "ATTACKS",
    "Distance",
    "attack_images",
    "check_attack",
    "draw_parameters",
    "linf_bound",
    "make_attack",
    "noise_twin",
]
