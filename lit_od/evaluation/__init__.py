"""How good the scores are: figures with their intervals, tables and pictures.

counts.py       inliers and outliers counted at each distinct score: what every figure comes from
metrics.py      AUROC, AUPR, FPR at 95 % TPR, rates at a threshold; a metric for Lightning's loops
intervals.py    how far to trust them: bootstrap, DeLong, exact binomial
evaluate.py     sets of scores to a table and to JSON
plots.py        pictures: each function takes data and returns a figure
"""
