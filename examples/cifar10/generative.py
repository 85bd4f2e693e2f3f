r"""Train a small generative model, and attack with it: images (B, 3, 32, 32) in [0, 1] in, attacked ones out.

    python -m examples.cifar10.generative --data data --classifier work/cifar10_net.safetensors \
        --out work/cifar10_generator.safetensors

The model is a variational autoencoder (Kingma & Welling 2014) that learns its own noise level (Rybkin et al. 2021,
"Simple and effective VAE training with calibrated decoders"), trained on the classifier's training images. `latent`
moves an image's code by gradients until the classifier errs, as Song et al. 2018 ("Constructing unrestricted
adversarial examples with generative models") and Stutz et al. 2019 ("Disentangling adversarial robustness and
generalization") do. The difference of the two decodings is added to the image, so that it stays sharp.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detector.classifier.state_dict import load_into
from detector.classifier.weights import read_weights
from detector.errors import ConfigError
from detector.malloc import keep_freed_memory
from examples.cifar10.classifier import load_folder, load_net, normalise
from examples.commands import check_out, count, run

__all__ = ["Autoencoder", "latent", "main", "train"]

CODE = 16  # channels of a code, (B, 16, 4, 4)
WIDTHS = (32, 64, 128)
LR, WARM_UP = 2e-3, 100  # steps
TRIED = 64  # held-out images that the command attacks at its end


class Autoencoder(nn.Module):
    """Images (B, 3, 32, 32) in [0, 1] to codes (B, 16, 4, 4), normally distributed, and back."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.encoder = nn.Sequential(
            nn.Conv2d(3, first, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(first, second, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(second, third, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(third, 2 * CODE, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(CODE, third, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(third, second, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(second, first, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(first, 3, 4, stride=2, padding=1),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances of the codes."""
        mean, log_variance = self.encoder(2 * images - 1).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)

    def decode(self, codes: Tensor) -> Tensor:
        images: Tensor = self.decoder(codes).float().sigmoid()
        return images


def train(images: Tensor, *, epochs: int, batch: int) -> Autoencoder:
    """Maximise the evidence lower bound; prints how far it is.

    Args:
        images: (N, 3, 32, 32) uint8.
        epochs: Passes over them.
        batch: Images of a step.

    Raises:
        ConfigError: There is not one batch of images.
    """
    if len(images) < batch:
        raise ConfigError(f"{len(images)} images in batches of {batch}: nothing would be learnt; use a smaller --batch")
    net = Autoencoder()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    steps = len(images) // batch
    started, done = time.monotonic(), 0
    for epoch in range(epochs):
        for index in torch.split(torch.randperm(len(images))[: steps * batch], batch):
            x = images[index].float().div(255).contiguous(memory_format=torch.channels_last)
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                mean, log_variance = net.encode(x)
                decoded = net.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp())
            error = (decoded - x).square().mean()
            divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum((1, 2, 3)).mean() / 2
            loss = error.log() / 2 + divergence / x[0].numel()  # of a pixel, the noise level being the mean error
            optimizer.param_groups[0]["lr"] = LR * min((done + 1) / WARM_UP, 1 - done / (epochs * steps))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            if done % 100 == 0 or done == epochs * steps:
                print(
                    f"epoch {epoch + 1}/{epochs} step {done}/{epochs * steps} error {error.sqrt().item():.4f} "
                    f"divergence {divergence.item():.0f} {time.monotonic() - started:.0f} s",
                    flush=True,
                )
    net.eval()
    return net


def latent(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    radius: float = 6.0,
    steps: int = 30,
    lead: float = 0.5,
    weights: str = "work/cifar10_generator.safetensors",
) -> Tensor:
    """Move the code of each image until another class leads.

    Args:
        classifier: Images (B, 3, 32, 32) in [0, 1] → logits (B, K).
        images: To attack.
        labels: (B,) what the classifier says.
        radius: How far a code may go, L2; of 256 normal numbers, which are about 16 from their mean.
        steps: Of gradient ascent.
        lead: The first of these attempts whose wrong logit is so much ahead is kept; the one most ahead where none is.
        weights: Of the autoencoder, as this module's command writes them.

    Returns:
        Pixels of 8 bits.
    """
    net = _autoencoder(weights)
    with torch.no_grad():
        code = net.encode(images)[0]
        sharp = images - net.decode(code)
    moved = torch.zeros_like(code)
    found, best = images, torch.full((len(images),), -torch.inf)
    for _ in range(steps):
        moved.requires_grad_()
        attacked = (sharp + net.decode(code + moved)).clamp(0, 1)
        attacked = attacked + ((attacked * 255).round() / 255 - attacked).detach()
        logits = classifier(attacked)
        own = logits.gather(1, labels[:, None]).squeeze(1)
        ahead = logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own
        (gradient,) = torch.autograd.grad(ahead.sum(), moved)
        with torch.no_grad():
            better = (ahead > best) & (best < lead)
            found = torch.where(better[:, None, None, None], attacked.detach(), found)
            best = torch.where(better, ahead, best)
            moved = _within(moved + 2 * radius / steps * _within(gradient, 1.0, exactly=True), radius)
    return found


def _within(vectors: Tensor, length: float, *, exactly: bool = False) -> Tensor:
    """Shortened, or scaled, to an L2 length."""
    norm: Tensor = vectors.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return vectors * (length / norm if exactly else (length / norm).clamp_max(1))


@cache
def _autoencoder(weights: str) -> Autoencoder:
    if not Path(weights).is_file():
        raise ConfigError(
            f"no generative model at {weights}: make it with python -m examples.cifar10.generative --out {weights}"
        )
    net = Autoencoder()
    load_into(net, read_weights(weights), weights)
    return net.eval().requires_grad_(False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with train/, an ImageFolder")
    parser.add_argument("--classifier", type=Path, help="weights: afterwards, attack it on some held-out images")
    parser.add_argument("--out", type=Path, default=Path("work/cifar10_generator.safetensors"))
    parser.add_argument("--held-out", type=count, default=600, help="images of each class kept for the detector")
    parser.add_argument("--epochs", type=count, default=2)
    parser.add_argument("--batch", type=count, default=128)
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    check_out(given.out)
    if given.classifier is not None:
        load_net(given.classifier)  # what is wrong with it is told before an hour has gone
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    images, _ = load_folder(given.data / "train", last=-given.held_out)
    net = train(images, epochs=given.epochs, batch=given.batch)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, str(given.out))
    if given.classifier is None:
        return
    classifier = load_net(given.classifier).requires_grad_(False)
    held_out, _ = load_folder(given.data / "train", first=-given.held_out)
    some = held_out[torch.randperm(len(held_out))[:TRIED]].float() / 255

    def logits(seen: Tensor) -> Tensor:
        answer: Tensor = classifier(normalise(255 * seen))
        return answer

    said = logits(some).argmax(1)
    attacked = latent(logits, some, said, weights=str(given.out))
    fooled = logits(attacked).argmax(1) != said
    change = (attacked - some)[fooled].abs().flatten(1)
    print(
        f"latent fools the classifier on {int(fooled.sum())} of {len(some)} held-out images; mean change "
        f"L∞ {255 * change.amax(1).mean().item():.0f}/255, L2 {change.norm(dim=1).mean().item():.2f}"
    )


if __name__ == "__main__":
    run(main)
