"""Trains the small ERNIE-4.5-VL checkpoint that ships with the project.

    lexicon, scene, drawing ──▶ tasks ──▶ Sample ──▶ prompt ──▶ Example ──▶ feed ──▶ batching ──▶ trainer

Everything the model learns is drawn and written by this package from seeds; nothing is downloaded.
`train.py` trains and exports, `evaluate.py` measures on held-out samples.
"""
