"""The table: what is wrong, what makes it so, the line that must come, and the commands that must say it."""

import functools
import re

from tests.support.refusals import makers
from tests.support.refusals.case import Case, cases
from tests.support.refusals.makers import (
    equal_images,
    files,
    folder_with_a_note,
    full,
    nothing,
    one_a_class,
    one_broken,
    read_only,
    sealed,
    without,
    writing,
)
from tests.support.refusals.odd_images import BROKEN, READABLE, write_all

NO_SPACE = "(?i)no space left on device|file too large"
RUN = frozenset({"new", *(f"new/{name}" for name in ("config.yaml", "metrics.csv", "samples.png"))})
FULL_RUN = frozenset(name.replace("new", "full/new") for name in RUN)
A_FILE = files(file="mine")
TRAIN = "train r.yaml --out new"
DULL = "fit r.yaml --out new --data.augment=null --model.init_args.network {0} --trust {0}"
DULL_ONE, BLANK_ONE, CROWD = (DULL.format(f"tests.support.refusals.dull:{name}") for name in ("Dull", "Blank", "Crowd"))
NAN = "--model.class_path {0} --trust {0} --trainer.max_epochs 3".format("tests.support.refusals.dull.Unsteady")
RESNET = "--model.init_args.network test_resnet.r160_in1k"

WRITING = [
    *cases(
        "writing",
        "--out is a file",
        A_FILE,
        "file is a file: name a folder",
        "fit r.yaml --out file",
        "fit folder --data.root images --out file",
        "fit r.yaml --out new --run file",
        "export run/best.ckpt --out file",
        "refit bundle images --out file",
        "train r.yaml --out file",
        "check images --out file",
    ),
    *cases(
        "writing",
        "--out is inside a file",
        A_FILE,
        "file/(new|rows)",
        "fit r.yaml --out file/new",
        "fit folder --data.root images --out file/new",
        "export run/best.ckpt --out file/new",
        "refit bundle images --out file/new",
        "train r.yaml --out file/new",
        "check images --out file/new",
        "score bundle images --out file/rows.csv",
    ),
    *cases(
        "writing",
        "--out is a folder, but no bundle",
        folder_with_a_note,
        "mine is a folder but no bundle: name another",
        "fit r.yaml --out mine",
        "fit folder --data.root images --out mine",
        "export run/best.ckpt --out mine",
        "refit bundle images --out mine",
    ),
    *cases(
        "writing",
        "a run into a folder with other files",
        folder_with_a_note,
        "mine is a folder with other files in it, such as note.txt: name one",
        "train r.yaml --out mine",
    ),
    *cases("writing", "a run into another's folder", nothing, "holds a run already: choose", "train r.yaml --out run"),
    *cases(
        "writing",
        "rows into a folder",
        folder_with_a_note,
        "mine is a folder, wanted a file",
        "score bundle images --out mine",
    ),
    *cases(
        "writing",
        "a read-only folder",
        read_only,
        "(?i)read-only|permission denied",
        "refit bundle images --out ro/new",
        "threshold ro/bundle --value 3",
        "train r.yaml --out ro/new",
        "check images --out ro/new",
        "score bundle images --out ro/rows.csv",
    ),
    *cases(
        "writing",
        "a full disk",
        functools.partial(full, room=100_000),
        NO_SPACE,
        "refit bundle images --out full/new",
        "fit folder --data.root images --out full/new",
        "export run/best.ckpt --out full/new",
    ),
    *cases(
        "writing",
        "a full disk",
        functools.partial(full, room=100_000, bundle=True),
        NO_SPACE,
        "threshold full/bundle --value 3",
        "refit bundle images --out full/bundle",
    ),
    *cases(
        "writing",
        "a full disk",
        functools.partial(full, room=200_000),
        NO_SPACE,
        "train r.yaml --out full/new",
        leaves=FULL_RUN,
    ),
    *cases(
        "writing",
        "a full disk",
        functools.partial(full, room=4096),
        NO_SPACE,
        "check images --out full/new",
        "score bundle images --out full/rows.csv",
        leaves=frozenset({"full/new", "full/rows.csv"}),
    ),
    *cases("writing", "a full device", nothing, NO_SPACE, "score bundle images --out /dev/full"),
]

TRAINING = [
    *cases("training", "one image a class", one_a_class, "class 'cats' has 1 image.* Add", f"{TRAIN} --data.train few"),
    *cases(
        "training",
        "one image",
        one_a_class,
        "image",
        "refit bundle few/cats --out new",
        "fit folder --data.root few/cats --out new",
    ),
    *cases("training", "an empty class", makers.an_empty_class, "folder images/birds holds no image: add some", TRAIN),
    *cases(
        "training",
        "a folder without images",
        folder_with_a_note,
        "no image found in mine",
        f"{TRAIN} --data.train mine",
        "fit folder --data.root mine --out new",
        "refit bundle mine --out new",
        "score bundle mine",
        "check mine",
    ),
    *cases(
        "training", "a single class", nothing, "at least 2 classes of inliers, got 1", f"{TRAIN} --data.train images/0"
    ),
    *cases(
        "training",
        "an image that is broken",
        one_broken,
        "broken.png: empty file.*lit-od check",
        TRAIN,
        "fit folder --data.root images --out new",
        "refit bundle images --out new",
        leaves=RUN,
    ),
    *cases(
        "training",
        "a loss that is NaN at once",
        nothing,
        "loss became nan at step . of epoch 0; there is no checkpoint yet. Lower",
        f"{TRAIN} --model.init_args.learning_rate 1e30",
        leaves=RUN,
    ),
    *cases(
        "training",
        "a loss that is NaN later",
        nothing,
        "loss became nan at step . of epoch 1; the best checkpoint so far is kept. Lower",
        f"{TRAIN} {NAN}",
        leaves=RUN | {"new/best.ckpt", "new/last.ckpt"},
    ),
    *cases("training", "a constant feature, shrunk", nothing, "new: mahalanobis on", DULL_ONE, status=0),
    *cases(
        "training",
        "a constant feature, shrinkage 0",
        nothing,
        "covariance of 5 features is singular. Pass",
        f"{DULL_ONE} --detector.shrinkage 0",
    ),
    *cases("training", "constant features", nothing, "features must vary.* Pass different images", BLANK_ONE),
    *cases(
        "training",
        "fewer images than features, shrinkage 0",
        nothing,
        "covariance of 64 features is singular. Pass more",
        "refit bundle images/0 --out new --detector.shrinkage 0",
    ),
    *cases("training", "equal images", equal_images, "features must vary.* Pass", "refit bundle equal --out new"),
    *cases(
        "training",
        "a checkpoint of another architecture",
        makers.other_architecture,
        "another architecture: 2 weights differ.* train anew",
        "export run/last.ckpt --out new",
    ),
    *cases(
        "training",
        "a checkpoint of another architecture",
        nothing,
        "another architecture: .* Give the recipe",
        f"train r.yaml --out run --resume run/last.ckpt {RESNET}",
    ),
    *cases(
        "training",
        "weights of another architecture",
        nothing,
        "another architecture: 90 of 90 weights are not in it",
        f"{TRAIN} {RESNET} --model.init_args.checkpoint_path run/best.ckpt",
    ),
    *cases(
        "training",
        "a checkpoint that is cut off",
        makers.cut_checkpoint,
        "best.ckpt is damaged, or no checkpoint: give",
        "export run/best.ckpt --out new",
    ),
    *cases(
        "training",
        "another program's checkpoint",
        makers.foreign_checkpoint,
        "not written by lit-od train: give",
        "export x.ckpt --out new",
    ),
    *cases(
        "training",
        "text for a checkpoint",
        files(x__ckpt="text"),
        "x.ckpt is damaged, or no checkpoint: give",
        "export x.ckpt --out new",
    ),
    *cases(
        "training",
        "a value of another kind",
        nothing,
        "min_epochs must be a whole number|gradient_clip_val must be a number|dropout must be a number",
        f"{TRAIN} --trainer.min_epochs abc",
        f"{TRAIN} --trainer.gradient_clip_val=-1",
        f"{TRAIN} --model.init_args.dropout abc",
    ),
    *cases(
        "training",
        "validation within an epoch",
        nothing,
        "val_check_interval 0.5 validates within an epoch",
        f"{TRAIN} --trainer.val_check_interval 0.5",
    ),
    *cases(
        "training",
        "no validation",
        nothing,
        "no validation took place, and best.ckpt is chosen by one: raise",
        f"{TRAIN} --trainer.check_val_every_n_epoch 2",
        leaves=RUN | {"new/last.ckpt", "new/learning_curves.png"},
    ),
    *cases(
        "training",
        "devices that are none",
        nothing,
        "trainer.devices (must be a number of processes|names GPU 99)",
        f"{TRAIN} --trainer.devices 0",
        f"{TRAIN} --trainer.devices 1.5",
        f"{TRAIN} --trainer.devices 99,100",
        "fit r.yaml --out new --trainer.devices none",
    ),
    *cases(
        "training",
        "batches of one image, and normalisation by the batch",
        nothing,
        "normalises by the batch, and a training batch has one image: make data.batch_size 2",
        f"{TRAIN} {RESNET} --data.batch_size 1 --data.prepare.size [32,32]",
        leaves=RUN,
    ),
    *cases(
        "training",
        "a module whose rows depend on each other",
        nothing,
        "output for an image must not depend on the other images of its batch",
        CROWD,
    ),
    *cases(
        "training",
        "code that nobody trusts",
        nothing,
        "(runs code from outside lit_od|is a network that others have published).*: add --trust",
        "fit r.yaml --out new --model.class_path tests.support.refusals.dull.Unsteady",
        f"{TRAIN} --model.init_args.network tests.support.refusals.dull:Dull",
        f"{TRAIN} --model.init_args.network hf-hub:somebody/net",
    ),
    *cases(
        "training",
        "patches that do not divide the image",
        nothing,
        "patches of 16x16, and of 28x28 .* would pass over 12 rows",
        f"{TRAIN} --model.init_args.network vit_tiny_patch16_224",
    ),
    *cases(
        "training", "no such tag", nothing, "no network '.*nope': ", f"{TRAIN} {RESNET.replace('r160_in1k', 'nope')}"
    ),
    *cases(
        "training",
        "no such provider",
        nothing,
        "provider magic is not in this ONNX Runtime",
        "export run/best.ckpt --out new --provider magic",
        "fit folder --data.root images --out new --provider magic",
    ),
    *cases("training", "no checkpoint", nothing, "x.ckpt does not exist: wanted", "export x.ckpt --out new"),
]

RECIPES = [
    *cases(
        "recipe",
        "a key that is given twice",
        files(x__yaml="name: x\nseed: 1\nseed: 2\n"),
        "the key 'seed' is given twice, in lines 2 and 3: leave one out",
        "fit x.yaml --out new",
    ),
    *cases("recipe", "an unknown key", files(x__yaml="sed: 1\n"), "x.yaml: unknown key `sed`", "fit x.yaml --out new"),
    *cases("recipe", "no YAML", files(x__yaml="a: [1"), "x.yaml is not YAML", "fit x.yaml --out new"),
    *cases(
        "recipe",
        "an override without effect",
        nothing,
        "--export.opset has no effect",
        "fit folder --out new --export.opset 17",
    ),
    *cases(
        "recipe",
        "an override without effect",
        nothing,
        "--(data.batch_size|data.split.validation|early-stopping) (has no effect|goes with training)",
        "fit folder --out new --early-stopping 3",
        "fit vgg16-gmm --out new --data.batch_size 4",
        "fit vgg16-gmm --out new --data.split.validation 0.2",
    ),
    *cases(
        "recipe",
        "an index that would end the process",
        nothing,
        "index='HNSW1'",
        "refit bundle images --out new --detector knn --detector.index HNSW1",
    ),
    *cases(
        "recipe",
        "a seed beyond 64 bits",
        nothing,
        r"seed must be below 2\*\*64",
        f"fit folder --out new --seed {2**64}",
    ),
    *cases("recipe", "a name that is almost one", nothing, "did you mean demo", "fit dem --out new"),
]

IMAGES = [
    *cases(
        "image",
        "an empty PATH",
        nothing,
        "is empty: leave it out, or see that its variable is set",
        "score bundle ''",
        "check ''",
        "refit bundle '' --out new",
    ),
    *cases("image", "no array in an .npy", files(x__npy="text"), "x.npy cannot be read as .npy", "score bundle x.npy"),
    *cases(
        "image",
        "a list with zero bytes",
        files(x__txt="a\0"),
        "x.txt is not a text list of paths",
        "score bundle x.txt",
    ),
    *cases(
        "image",
        "a list of several labels",
        files(x__csv="path,label\na.png,good\nb.png,bad\n"),
        r"x.csv lists images of several labels \(bad, good\)",
        "refit bundle x.csv --out new",
        "evaluate bundle --inliers x.csv --outliers x=x.csv",
    ),
    *cases(
        "image",
        "an image that is inlier and outlier",
        files(x__csv="path,label\na.png,good\nb.png,bad\n"),
        "serves as both inlier and outlier: name each image once",
        "evaluate bundle --inliers x.csv --label good --outliers x=x.csv",
    ),
    *(
        Case("image", bad, ["score", "bundle", name, "--format", "jsonl"], '"error": null', writing(name, write), 0)
        for bad, (name, write) in READABLE.items()
    ),
    *(
        Case("image", bad, ["score", "bundle", name], re.escape(says), writing(name, write), 1)
        for bad, (name, write, says) in BROKEN.items()
    ),
    *cases(
        "image",
        "all of these in a folder",
        lambda folder: write_all(folder / "odd"),
        f"{len(READABLE)} images can be read, {len(BROKEN)} cannot",
        "check odd",
        status=1,
    ),
    *cases(
        "image",
        "all of these in a folder",
        lambda folder: write_all(folder / "odd"),
        "odd/.*lit-od check",
        "refit bundle odd --out new",
        "fit folder --data.root odd --out new",
    ),
    *cases("image", "no such folder", nothing, "nowhere does not exist: wanted an image", "score bundle nowhere"),
    *cases(
        "image", "a table without paths", files(x__csv="file\na.png\n"), "a column named path", "score bundle x.csv"
    ),
    *cases("image", "a damaged archive", files(x__npz="text"), "x.npz cannot be read as .npz", "score bundle x.npz"),
]

BUNDLES = [
    *cases("bundle", "a byte flipped", makers.flipped, "backbone.onnx does not match", "score bundle images"),
    *cases("bundle", "a byte flipped", makers.flipped, "backbone.onnx does not match", "verify bundle", status=1),
    *cases("bundle", "a file cut off", makers.truncated, "detector.safetensors has 100 bytes", "score bundle images"),
    *cases(
        "bundle", "a file missing", without("golden.safetensors"), "golden.safetensors is missing", "inspect bundle"
    ),
    *cases("bundle", "an extra file", files(bundle__more="x"), "extra file 'more'", "threshold bundle --value 3"),
    *cases("bundle", "a symbolic link", makers.linked, "backbone.onnx is no plain file", "score bundle images"),
    *cases(
        "bundle",
        "an unknown version",
        lambda folder: sealed(folder, lambda tree: tree.update(schema_version=99)),
        "schema version 99; this lit_od reads",
        "score bundle images",
    ),
    *cases("bundle", "statistics that are NaN", makers.not_a_number, "'means' .*finite", "score bundle images"),
    *cases("bundle", "weights in another file", makers.external_data, "backbone.onnx: .*", "score bundle images"),
    *cases("bundle", "no bundle", nothing, "images is no bundle: it has no manifest.json", "score images images"),
]

CASES = [*WRITING, *TRAINING, *RECIPES, *IMAGES, *BUNDLES]
