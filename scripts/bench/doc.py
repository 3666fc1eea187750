"""Compare a DOC training step on the trunk's activations with one on images.

    python scripts/bench/doc.py [--weights FILE] [--runs 7] [--batch-size 64] [--threads N]

The network is the recipe's, doc-sneakers, 96x96, on noise: time does not depend on what the images show.
Figures are images a second. Both sides take the same batches, one of the reference set and one of the
target class, forward, backward and the optimiser's step, in turns of one step, the first of which warms up.
The activations are in half precision, as a run keeps it. Prints the medians, the median of each run's
ratio, the largest relative difference of the losses, and a JSON line.
"""

import argparse
import json
import statistics
import time

import torch

from lit_od.recipes.load import read
from lit_od.training.doc import LitDOC, Twin

CLASSES = 8


class Sole:
    """A Trainer of one process, with all that a step reads of it."""

    world_size = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="of the network; random ones take as long")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, help="of torch; its own choice where left out")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    kept, whole = (side(args.weights, cached) for cached in (True, False))
    assert kept[0].trunk is not None
    generator = torch.Generator().manual_seed(0)
    runs, differences = [], []
    for _ in range(args.runs + 1):  # the first warms up
        halves = [torch.randint(0, 256, (args.batch_size, 96, 96, 3), dtype=torch.uint8, generator=generator)] * 2
        labels = torch.randint(0, CLASSES, (args.batch_size,), generator=generator)
        with torch.no_grad():
            rows = [kept[0].trunk.trunk(half).half() for half in halves]
        turns = [turn(*trained, inputs, labels) for trained, inputs in ((kept, rows), (whole, halves))]
        runs.append([2 * args.batch_size / seconds for seconds, _ in turns])
        differences.append(abs(turns[0][1] / turns[1][1] - 1))
    runs = runs[1:]
    ours, theirs = (statistics.median(run[position] for run in runs) for position in (0, 1))
    ratios = sorted(run[0] / run[1] for run in runs)
    ratio = statistics.median(ratios)
    print(
        f"on kept activations {ours:,.1f} images/s, on images {theirs:,.1f} images/s, {len(runs)} runs: "
        f"{ratio:.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f}); losses differ by {max(differences):.1e}"
    )
    figures = {"kept": ours, "images": theirs, "ratio": ratio, "ratios": ratios, "loss_difference": max(differences)}
    print(json.dumps(figures | {"batch_size": args.batch_size, "threads": torch.get_num_threads()}))


def side(weights: str | None, cached: bool) -> tuple[LitDOC, torch.optim.Optimizer]:
    """Return a module with its optimiser; both sides get the same weights."""
    recipe = read("doc-sneakers")
    assert recipe.model is not None
    options = recipe.model.init_args | {"checkpoint_path": weights, "pretrained": False}
    torch.manual_seed(0)
    module = LitDOC(**options, reference_classes=CLASSES, image_size=recipe.data.prepare.size)
    module._cached = cached
    module._trainer = Sole()  # type: ignore[assignment]  # all that a step reads
    return module, module.configure_optimizers()


def turn(
    module: LitDOC, optimizer: torch.optim.Optimizer, halves: list[torch.Tensor], labels: torch.Tensor
) -> tuple[float, float]:
    """Take a step; return its seconds and its loss.

    Args:
        module: The module.
        optimizer: Its optimiser.
        halves: Batches of the reference set and the target class: images or activations.
        labels: Labels of either batch.
    """
    batch: Twin = {"reference": (halves[0], labels), "target": (halves[1], labels)}
    started = time.perf_counter()
    optimizer.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    optimizer.step()
    return time.perf_counter() - started, float(loss.detach())


if __name__ == "__main__":
    main()
