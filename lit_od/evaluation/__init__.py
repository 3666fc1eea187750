"""Evaluation of scores: figures with their intervals, tables and pictures.

counts.py        inliers and outliers counted at each distinct score, the source of every figure
rates.py         TPR, FPR, precision, F1 and balanced accuracy at a threshold
metrics.py       AUROC, AUPR, FPR at 95 % TPR
intervals.py     confidence intervals: bootstrap, DeLong, exact binomial
effect_size.py   Welch's test and Cohen's effect size of two sets of scores
evaluate.py      sets of scores to a table and to JSON
paired.py        two bundles on the same images
image_sets.py    the sets of images that a bundle is evaluated on, and their scores
deletion.py      test of heat maps: the score's fall when the hottest pixels are replaced
perturbation.py  scores of images under patches of noise
plots/           pictures of scores, curves, images and features
report/          the HTML page

Figures, tables and pictures are numpy and Matplotlib; nothing here imports torch.
"""
