"""Run lit-od train, by default on doc-sneakers, by torchrun, SLURM or python.

    python scripts/train_doc.py --out RUN --trainer.devices 2
    torchrun --nproc-per-node 2 scripts/train_doc.py --out RUN --data.root DATA
    srun python scripts/train_doc.py --out RUN --data.root DATA --resume
    python scripts/train_doc.py mine.yaml --out RUN

All arguments and overrides are those of lit-od train.
"""

import sys

from lit_od.cli import main

RECIPE = "doc-sneakers"

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(["train", *([RECIPE] if not words or words[0].startswith("-") else []), *words]))
