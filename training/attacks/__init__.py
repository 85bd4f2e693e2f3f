"""What is done to images: attacks, noise twins, corruptions and deliveries; 8-bit images in, 8-bit images out."""

from training.attacks.attacks import Distance, attack_images, check_attack, code_of, make_attack, noise_twin
from training.attacks.drawing import draw_parameters
from training.attacks.methods import ATTACKS

__all__ = [
    "ATTACKS",
    "Distance",
    "attack_images",
    "check_attack",
    "code_of",
    "draw_parameters",
    "make_attack",
    "noise_twin",
]
