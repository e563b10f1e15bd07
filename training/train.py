"""Train a network by a recipe: ``python -m training.train RECIPE --root DATA --output RUN``."""

import argparse
import csv
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.metrics import ConfusionMatrix
from segmentation_node.labels import UNLABELLED
from segmentation_node.networks import build_network
from segmentation_node.networks.deploy import Normalise
from training.augment import Augmentation
from training.recipe import Recipe


class Split:
    """A decoded split in memory: images uint8 (N, H, W, 3), labels uint8 (N, H, W)."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        samples = [dataset[index] for index in range(len(dataset))]
        self.images = torch.from_numpy(np.stack([s.image_hwc for s in samples])).to(device)
        self.labels = torch.from_numpy(np.stack([s.labels_hw for s in samples])).to(device)
        self.classes = len(dataset.label_set)

    def __len__(self) -> int:
        return len(self.images)

    def class_weights(self, offset: float) -> torch.Tensor:
        """ENet's class weights 1 / ln(offset + share): float32 (classes,), mean 1.

        Classes that never occur weigh nothing.
        """
        counts = torch.bincount(self.labels.flatten().long(), minlength=256)[: self.classes]
        share = counts / counts.sum()
        weights = torch.where(counts > 0, 1 / torch.log(offset + share), 0.0)
        return weights / weights[counts > 0].mean()


class Trainer:
    """One run: network, averaged network, optimiser, schedule and log of a recipe."""

    def __init__(self, recipe: Recipe, train: Split, val: Split, output: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.train_split, self.val_split, self.output = recipe, train, val, output
        self.device = train.images.device
        self.generator = torch.Generator().manual_seed(recipe.seed)
        network = build_network(recipe.network, train.classes, recipe.network_options)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.to(self.device)
        self.averaged = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True
        )
        self.normalise = Normalise(recipe.mean_rgb, recipe.std_rgb).to(self.device)
        self.augment = Augmentation(recipe.crop_size, recipe.scale_range, recipe.light_jitter)
        self.class_weights = train.class_weights(recipe.class_weight_offset)
        self.steps_per_epoch = len(train) // recipe.batch_size
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            recipe.learning_rate,
            total_steps=recipe.epochs * self.steps_per_epoch,
            pct_start=recipe.warmup_share,
        )

    def run(self) -> float:
        """Train to the end; leaves weights.safetensors, log.csv and recipe.yaml in the folder."""
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / "recipe.yaml").write_text(yaml.safe_dump(asdict(self.recipe)))
        started, mean_iou = time.monotonic(), float("nan")
        with open(self.output / "log.csv", "w", newline="") as log_file:
            log = csv.writer(log_file)
            log.writerow(["epoch", "loss", "val_mean_iou", "elapsed_s"])
            for epoch in range(1, self.recipe.epochs + 1):
                loss = self._train_epoch()
                evaluated = epoch % self.recipe.evaluate_every == 0 or epoch == self.recipe.epochs
                if evaluated:
                    mean_iou = self.evaluate().mean_iou()
                    self._save()
                elapsed_s = time.monotonic() - started
                score = f"{mean_iou:.4f}" if evaluated else ""
                log.writerow([epoch, f"{loss:.5f}", score, f"{elapsed_s:.1f}"])
                log_file.flush()
                remaining_s = elapsed_s / epoch * (self.recipe.epochs - epoch)
                print(
                    f"epoch {epoch}/{self.recipe.epochs} loss {loss:.4f} val mIoU {score or '-'} "
                    f"elapsed {elapsed_s:.0f} s, {remaining_s:.0f} s to go",
                    flush=True,
                )
        return mean_iou

    def _train_epoch(self) -> float:
        self.network.train()
        order = torch.randperm(len(self.train_split), generator=self.generator)
        total = 0.0
        for step in range(self.steps_per_epoch):
            start = step * self.recipe.batch_size
            chosen = order[start : start + self.recipe.batch_size].to(self.device)
            total += self._train_step(
                self.train_split.images[chosen], self.train_split.labels[chosen]
            )
        return total / self.steps_per_epoch

    def _train_step(self, images_nhwc: torch.Tensor, labels_nhw: torch.Tensor) -> float:
        images, labels = self.augment(images_nhwc, labels_nhw, self.generator)
        images = self.normalise(images).contiguous(memory_format=torch.channels_last)
        logits = self.network(images)
        loss = functional.cross_entropy(
            logits, labels, weight=self.class_weights, ignore_index=UNLABELLED
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.max_gradient_norm)
        self.optimiser.step()
        self.schedule.step()
        self.averaged.update_parameters(self.network)
        value = loss.item()
        if not np.isfinite(value):
            raise FloatingPointError(
                f"the loss became {value}; lower learning_rate (now {self.recipe.learning_rate})"
            )
        return value

    @torch.inference_mode()
    def evaluate(self) -> ConfusionMatrix:
        """Score the averaged weights on the validation split at full size."""
        self.averaged.eval()
        matrix = ConfusionMatrix(self.val_split.classes)
        for image, labels in zip(self.val_split.images, self.val_split.labels):
            image_nchw = image.permute(2, 0, 1).unsqueeze(0).float()
            normalised = self.normalise(image_nchw).contiguous(memory_format=torch.channels_last)
            class_map = self.averaged(normalised).argmax(1)[0].to(torch.uint8)
            matrix.add(labels.cpu().numpy(), class_map.cpu().numpy())
        return matrix

    def _save(self) -> None:
        weights = {
            name: tensor.contiguous() for name, tensor in self.averaged.module.state_dict().items()
        }
        partial = self.output / "weights.safetensors.partial"
        save_file(weights, partial)
        partial.rename(self.output / "weights.safetensors")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="training.train", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--root", default="", help="folder of the data set")
    parser.add_argument("--output", type=Path, required=True, help="folder of this run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # Saturated ELUs make gradients so small that the CPU computes them many times slower.
    torch.set_flush_denormal(True)
    recipe = Recipe.read(arguments.recipe)
    device = torch.device(arguments.device)
    train = Split(open_dataset(recipe.dataset, arguments.root, "train"), device)
    val = Split(open_dataset(recipe.dataset, arguments.root, "val"), device)
    print(f"{len(train)} training and {len(val)} validation images on {device}", flush=True)
    Trainer(recipe, train, val, arguments.output).run()


if __name__ == "__main__":
    main()
