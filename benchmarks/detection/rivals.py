"""The detectors that heatward stands beside: a `Lesson` in, a function from images to attack scores and labels out.

Mahalanobis          Lee et al. 2018, section 2.1: pooled features of the deepest layer (pytorch-ood)
feature squeezing    Xu et al. 2018, section V: 5 bits and a 2×2 median; no non-local means (ART's squeezers)
CNN on the image     Gong et al. 2017 (ART's BinaryInputDetector)
MLP on activations   Metzen et al. 2017, on pooled features of the deepest layer (ART's BinaryActivationDetector)
second classifier    −log of its probability for the guarded one's prediction: the bundle's witness alone, or a
                     small one trained here on the guarded one's predictions
logit margin         of the top two classes, no training
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.defences.detector.evasion import BinaryActivationDetector, BinaryInputDetector
from art.defences.preprocessor import FeatureSqueezing, SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from pytorch_ood.detector import Mahalanobis
from torch import Tensor, nn

from detector.classifier import Classifier
from detector.detector import Detector
from training.evaluation.scores import Answers, runner_up

__all__ = ["DETECTORS", "Judge", "Lesson", "unit"]

EPOCHS, BATCH, LEARNING_RATE = 20, 128, 2e-3

Judge = Callable[[Tensor], Answers]
"""Of images (n, 3, H, W) in [0, 1] on the classifier's device."""


@dataclass(frozen=True)
class Lesson:
    """What a detector may learn from."""

    detector: Detector
    clean: Tensor  # (m, 3, H, W) uint8
    predictions: Tensor  # (m,) of the clean images
    images: Tensor  # (n, 3, H, W) uint8: clean, noise twins, successful attacks
    attacked: Tensor  # (n,) bool

    @property
    def classifier(self) -> Classifier:
        return self.detector.classifier


class Encoder(nn.Module):
    """Images (n, 3, H, W) to the classifier's deepest activations, averaged over space: (n, C)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier, self.layer = classifier, classifier.depths(1)[0]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.activations(images, [self.layer])[1][self.layer].mean((2, 3))


def heatward(lesson: Lesson) -> Judge:
    def judge(images: Tensor) -> Answers:
        verdicts = lesson.detector.detect(images)
        recovered = [[label for label, _ in verdict.recovered[:2]] for verdict in verdicts]
        return Answers(torch.tensor([verdict.attack_score for verdict in verdicts]), torch.tensor(recovered))

    return judge


def mahalanobis(lesson: Lesson) -> Judge:
    encoder = Encoder(lesson.classifier)
    features = [encoder(unit(part, lesson.classifier.device)) for part in torch.split(lesson.clean, BATCH)]
    _, labels = torch.unique(lesson.predictions, return_inverse=True)  # it wants labels without gaps
    return score_only(Mahalanobis(encoder).fit_features(torch.cat(features), labels).predict)


def feature_squeezing(lesson: Lesson) -> Judge:
    squeezers = (
        FeatureSqueezing(clip_values=(0.0, 1.0), bit_depth=5),
        SpatialSmoothing(window_size=2, channels_first=True),
    )

    def score(images: Tensor) -> Tensor:
        pixels = images.cpu().numpy()
        squeezed = [torch.from_numpy(squeezer(pixels)[0]).to(images) for squeezer in squeezers]
        plain, *others = (lesson.classifier(each).softmax(1) for each in (images, *squeezed))
        return torch.stack([(plain - other).abs().sum(1) for other in others]).amax(0)

    return score_only(score)


def image_cnn(lesson: Lesson) -> Judge:
    estimator = make_estimator(convnet(2), lesson.images.shape[1:], 2, lesson.classifier.device)
    return trained(BinaryInputDetector(estimator), lesson)


def activation_mlp(lesson: Lesson) -> Judge:
    device, shape = lesson.classifier.device, lesson.images.shape[1:]
    encoder = Encoder(lesson.classifier)
    width = encoder(unit(lesson.images[:1], device)).shape[1]
    mlp = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 2))
    observed = make_estimator(nn.Sequential(encoder), shape, lesson.classifier.num_classes, device)
    return trained(BinaryActivationDetector(observed, make_estimator(mlp, (width,), 2, device), layer=0), lesson)


def second_classifier(lesson: Lesson) -> Judge:
    second = lesson.detector.extractor.witness or small_classifier(lesson)

    def judge(images: Tensor) -> Answers:
        predicted = lesson.classifier(images).argmax(1, keepdim=True)
        log_probabilities = second(images).log_softmax(1)
        return Answers(-log_probabilities.gather(1, predicted)[:, 0], log_probabilities.topk(2).indices)

    return judge


def logit_margin(lesson: Lesson) -> Judge:
    return lambda images: runner_up(lesson.classifier(images))


DETECTORS: dict[str, Callable[[Lesson], Judge]] = {
    "heatward": heatward,
    "Mahalanobis": mahalanobis,
    "feature squeezing": feature_squeezing,
    "CNN on the image": image_cnn,
    "MLP on activations": activation_mlp,
    "second classifier": second_classifier,
    "logit margin": logit_margin,
}


def unit(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device).float() / 255


def score_only(score: Callable[[Tensor], Tensor]) -> Judge:
    """A detector that recovers no label."""
    return lambda images: Answers(score(images), torch.full((len(images), 2), -1))


def convnet(outputs: int, width: int = 32) -> nn.Sequential:
    layers: list[nn.Module] = [nn.BatchNorm2d(3)]
    for before, after, stride in ((3, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, outputs))


def make_estimator(net: nn.Module, shape: Sequence[int], classes: int, device: torch.device) -> Any:
    parameters = list(net.parameters())
    return PyTorchClassifier(
        net,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(parameters, LEARNING_RATE) if parameters else None,
        input_shape=tuple(shape),
        nb_classes=classes,
        device_type="gpu" if device.type == "cuda" else "cpu",
    )


def fit(learner: Any, estimator: Any, images: Tensor, labels: Tensor) -> None:
    """Train `estimator`, which `learner` (itself, or a detector around it) feeds."""
    learner.fit(
        unit(images, torch.device("cpu")).numpy(),
        np.eye(estimator.nb_classes, dtype=np.float32)[labels.numpy()],
        batch_size=BATCH,
        nb_epochs=EPOCHS,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(estimator.optimizer, EPOCHS),
        drop_last=len(images) > BATCH,  # batch statistics of one image are undefined
        verbose=True,
    )


def trained(detector: Any, lesson: Lesson) -> Judge:
    fit(detector, detector.detector, lesson.images, lesson.attacked.long())

    def score(images: Tensor) -> Tensor:
        logits = detector.detect(images.cpu().numpy())[0]["predictions"]  # (n, 2): clean, attacked
        return torch.from_numpy(logits[:, 1] - logits[:, 0])

    return score_only(score)


def small_classifier(lesson: Lesson) -> nn.Module:
    classes = lesson.classifier.num_classes
    estimator = make_estimator(convnet(classes), lesson.clean.shape[1:], classes, lesson.classifier.device)
    fit(estimator, estimator, torch.cat([lesson.clean, lesson.clean.flip(3)]), lesson.predictions.repeat(2))
    small: nn.Module = estimator.model.eval()
    return small
