"""How good the scores are: figures with their intervals, tables and pictures.

counts.py       inliers and outliers counted at each distinct score: what every figure comes from
rates.py        TPR, FPR, precision, F1 and balanced accuracy at a threshold
metrics.py      AUROC, AUPR, FPR at 95 % TPR; all of it as a metric for Lightning's loops
intervals.py    how far to trust them: bootstrap, DeLong, exact binomial
evaluate.py     sets of scores to a table and to JSON
plots.py        pictures of scores and curves: each function takes data and returns a figure
panels.py       the same for a training's course and for images
embeddings.py   t-SNE of features, space beside space
galleries.py    the most and the least outlying images
pointing.py     whether heat maps point at what makes an outlier
style.py        how all pictures look, and an axis for scores of any range
sets.py         the sets of images that a bundle is evaluated on, and their scores
report/         the HTML page
features.py     what a backbone computes of a set of images, kept on disk between runs
one_class.py    one class normal, the rest outliers, for every class in turn
experiments/    published experiments, run again

Figures, tables and pictures are numpy and Matplotlib; torch is loaded by metrics.py, for its Lightning
metric, and by what trains or opens torchvision's sets.
"""
