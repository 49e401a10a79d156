"""Write a small ERNIE-4.5 checkpoint: `python scripts/make_tiny_checkpoint.py [--kind vl] OUT`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.tiny_checkpoint.command import main

if __name__ == "__main__":
    main()
