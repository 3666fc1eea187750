import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lit_od.backbone.model import Backbone
from lit_od.errors import ConfigError, DataError, ExportError
from lit_od.training.export import backbone_graph as export
from lit_od.training.export.backbone_graph import OPSETS, export_backbone
from lit_od.training.export.parity import check_parity

IMAGES = np.random.default_rng(0).integers(0, 256, size=(5, 12, 12, 1), dtype=np.uint8)


class Small(nn.Module):
    """Convolutions, dropout and features of width 6."""

    def __init__(self, norm=True):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.AvgPool2d(2)
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Flatten(), nn.Linear(100, 6), nn.Sigmoid())

    def forward(self, images):
        return self.head(self.body(images.permute(0, 3, 1, 2).float() / 255))


class Errors(nn.Module):
    def forward(self, images):
        x = images.float() / 255
        return (x - x.mean(dim=(1, 2), keepdim=True)) ** 2


class CountsBatch(nn.Module):
    """What it computes depends on the batch, as a trace cannot know."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, images):
        x = images.flatten(1).float() / 255
        return x * 2 if not torch.compiler.is_exporting() and len(images) >= self.limit else x


class Branches(nn.Module):
    def forward(self, images):
        x = images.flatten(1).float() / 255
        return x * 2 if images.shape[0] > 2 else x


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, images):
        return self.what(images)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    module = Small()
    path = tmp_path_factory.mktemp("export") / "backbone.onnx"
    return module, path, export_backbone(module, path, IMAGES)


def test_the_file_computes_what_the_module_computes_at_any_batch_size(exported):
    module, path, _ = exported
    backbone = Backbone.load(path)
    images = np.random.default_rng(1).integers(0, 256, size=(64, 12, 12, 1), dtype=np.uint8)
    with torch.no_grad():
        wanted = module.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(backbone(images), wanted, rtol=1e-4, atol=1e-6)
    for size in (1, 7):
        np.testing.assert_allclose(backbone(images[:size]), wanted[:size], rtol=1e-4, atol=1e-6)


def test_the_report_says_what_was_written(exported):
    _, path, report = exported
    graph = onnx.load(path).graph
    assert list(report.differences) == [1, 2, 3, 64]
    assert all(0 <= difference < 1e-5 for difference in report.differences.values())
    assert (report.opset, report.output) == (20, "features")
    assert (report.image_shape, report.output_shape) == ((12, 12, 1), (6,))
    assert report.size == path.stat().st_size
    assert report.nodes == len(graph.node)


def test_the_graph_takes_any_number_of_uint8_images_and_holds_all_its_weights(exported):
    _, path, _ = exported
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    (images,), (features,) = model.graph.input, model.graph.output
    assert (images.name, features.name) == ("images", "features")
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sides = images.type.tensor_type.shape.dim
    assert sides[0].dim_param
    assert [side.dim_value for side in sides[1:]] == [12, 12, 1]
    assert all(weight.data_location == onnx.TensorProto.DEFAULT for weight in model.graph.initializer)
    assert [each.name for each in path.parent.iterdir()] == ["backbone.onnx"]


def test_the_graph_is_no_longer_than_the_module(exported):
    kinds = [node.op_type for node in onnx.load(exported[1]).graph.node]
    assert kinds == "Transpose Cast Div Conv Relu AveragePool Reshape Gemm Sigmoid".split()


def test_the_file_tells_nothing_of_the_machine_that_made_it(exported):
    assert not re.search(rb"\.py|site-packages|stack_trace|pkg\.torch", exported[1].read_bytes())


def test_errors_keep_the_images_shape(tmp_path):
    report = export_backbone(Errors(), tmp_path / "b.onnx", IMAGES, output="errors", opset=18)
    assert (report.output, report.output_shape, report.opset) == ("errors", (12, 12, 1), 18)
    assert Backbone.load(tmp_path / "b.onnx").output == "errors"


@pytest.mark.parametrize("opset", [18, 21, OPSETS[-1]])
def test_the_opset_is_the_one_asked_for(tmp_path, opset):
    report = export_backbone(Small(norm=False), tmp_path / "b.onnx", IMAGES[:1], opset=opset)
    assert report.opset == opset
    imports = onnx.load(tmp_path / "b.onnx").opset_import
    assert {each.domain: each.version for each in imports} == {"": opset}


def test_each_part_keeps_its_mode_and_its_weights(tmp_path):
    module = Small().train()
    module.body[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export_backbone(module, tmp_path / "b.onnx", IMAGES)
    assert module.training
    assert not module.body[1].training
    assert module.head[0].training
    for name, value in module.state_dict().items():
        assert torch.equal(before[name], value), name


class InPlace(nn.Module):
    """ReLU that overwrites its input; `aliased` uses the input afterwards, so that the values hang on it."""

    def __init__(self, aliased):
        super().__init__()
        self.aliased = aliased
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, images):
        x = images.flatten(1).float() - 100
        y = self.relu(x)
        return x + y if self.aliased else y


@pytest.mark.parametrize("aliased", [False, True])
def test_activations_in_place_are_exported_as_they_compute_and_stay_in_place(tmp_path, monkeypatch, aliased):
    module, seen, traced = InPlace(aliased), [], torch.onnx.export

    def spy(part, *args, **options):
        seen.append(part.relu.inplace)
        return traced(part, *args, **options)

    monkeypatch.setattr(torch.onnx, "export", spy)
    export_backbone(module, tmp_path / "b.onnx", IMAGES)
    assert seen == [aliased]
    assert module.relu.inplace


def test_nothing_is_printed(tmp_path, capfd, recwarn):
    export_backbone(Small(), tmp_path / "b.onnx", IMAGES)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@pytest.mark.parametrize("limit", [1, 3, 64])
def test_a_graph_that_differs_is_refused_and_the_old_file_stays(tmp_path, limit):
    path = tmp_path / "b.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match=rf"batch size {limit}: output 'features', image \d+, .* 0\.5, at"):
        export_backbone(CountsBatch(limit), path, IMAGES)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_module_that_draws_at_random_is_refused(tmp_path):
    # of 144 draws some differ by enough, of a single one not always
    noisy = Returns(lambda images: images.flatten(1).float() + 100 * torch.rand(images.shape[0], 144))
    with pytest.raises(ExportError, match=r"differs from torch at batch size 1: .* Look for randomness"):
        export_backbone(noisy, tmp_path / "b.onnx", IMAGES)
    assert not list(tmp_path.iterdir())


def test_a_branch_on_the_batch_size_never_becomes_a_file(tmp_path):
    with pytest.raises(ExportError, match="differs from torch at batch size 3: "):
        export_backbone(Branches(), tmp_path / "b.onnx", IMAGES)
    assert not list(tmp_path.iterdir())


def test_a_graph_of_one_batch_size_never_becomes_a_file(tmp_path):
    fixed = Returns(lambda images: images.flatten(1).float() + torch.zeros(len(images), 1))
    with pytest.raises(ExportError, match=r"takes any number of images; this graph takes 2\. Look .* len"):
        export_backbone(fixed, tmp_path / "b.onnx", IMAGES)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_captured_is_refused_in_one_line_without_the_exporters_print(tmp_path, capfd):
    branching = Returns(lambda x: x.flatten(1) * 2.0 if x.sum() > 9 else x.flatten(1).float())
    with pytest.raises(ExportError, match=r"^the module cannot be exported: .*data-dependent") as refusal:
        export_backbone(branching, tmp_path / "b.onnx", IMAGES)
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("what", "output", "message"),
    [
        (lambda x: (x, x), "features", "must return one tensor, got tuple"),
        (lambda x: x.float(), "features", r"float32 \(n, d\), got torch.float32 \(1, 12, 12, 1\)"),
        (lambda x: x.flatten(1).double(), "features", "got torch.float64"),
        (lambda x: x.flatten(1).float(), "errors", r"must return float32 \(n, 12, 12, 1\)"),
        (lambda x: x.flatten(1).float() / 0, "features", "torch's output 'features' holds NaN or infinity"),
    ],
)
def test_modules_that_are_no_backbone_are_refused(tmp_path, what, output, message):
    with pytest.raises(ExportError, match=message):
        export_backbone(Returns(what), tmp_path / "b.onnx", IMAGES, output=output)
    assert not list(tmp_path.iterdir())


def test_more_than_protobuf_holds_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LIMIT_BYTES", 1000)
    with pytest.raises(ExportError, match=r"holds at most 1,000 bytes, but the module's weights are 2,"):
        export_backbone(Small(), tmp_path / "b.onnx", IMAGES)


def test_options_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"opset must lie in 18\.\.23, got 17"):
        export_backbone(Small(), tmp_path / "b.onnx", IMAGES, opset=17)
    with pytest.raises(ConfigError, match='output must be "features", "errors" or "patches", got \'maps\''):
        export_backbone(Small(), tmp_path / "b.onnx", IMAGES, output="maps")
    for images in (IMAGES[:0], IMAGES[0], IMAGES.astype(np.float32)):
        with pytest.raises(DataError, match="the proof needs uint8 images"):
            export_backbone(Small(), tmp_path / "b.onnx", images)


class TestParity:
    def test_other_weights_are_found_out(self, exported):
        module, path, report = exported
        assert check_parity(module, path, IMAGES) == pytest.approx(report.differences, abs=1e-6)
        other = Small()
        with torch.no_grad():
            other.head[2].weight *= 1.01
        with pytest.raises(ExportError, match=r"differs from torch at batch size 3: .* at most 0\.0001"):
            check_parity(other, path.read_bytes(), IMAGES, batch_sizes=(3,))
        assert check_parity(other, path, IMAGES, tolerance=0.1)[64] > 1e-4

    def test_other_shapes_and_files_are_found_out(self, exported, tmp_path):
        _, path, _ = exported
        wider = Returns(lambda x: x.flatten(1).float())
        with pytest.raises(ExportError, match=r"has shape \(1, 6\), torch gives \(1, 144\)"):
            check_parity(wider, path, IMAGES)
        with pytest.raises(ExportError, match="the exported graph fails at batch size 1: "):
            check_parity(wider, path, np.repeat(IMAGES, 2, axis=1))
        (tmp_path / "b.onnx").write_bytes(b"no graph")
        with pytest.raises(ExportError, match="the exported graph is no backbone: "):
            check_parity(wider, tmp_path / "b.onnx", IMAGES)


@pytest.mark.slow
def test_a_timm_backbone(tmp_path):
    import timm

    class Lite0(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)

        def forward(self, images):
            return self.model((images.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous())

    images = np.random.default_rng(0).integers(0, 256, size=(3, 96, 96, 3), dtype=np.uint8)
    report = export_backbone(Lite0(), tmp_path / "b.onnx", images)
    assert report.output_shape == (1280,)
    assert max(report.differences.values()) < 1e-5
    kinds = {node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node}
    assert kinds == set("Transpose Cast Div Sub Conv Clip Add ReduceMean Reshape".split())


class ByBatch(nn.Module):
    """Normalises by the batch, by a layer that keeps no statistics or by its own sum."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images):
        values = images.permute(0, 3, 1, 2).float()
        return (values - values.mean(0) if self.layer is None else self.layer(values)).mean(2).flatten(1)


@pytest.mark.parametrize(
    ("layer", "cause"),
    [
        (
            nn.BatchNorm2d(1, track_running_stats=False),
            "layer normalises by the batch: give it track_running_stats",
        ),
        (None, "Look for sums, means or ranges over the batch"),
    ],
)
@pytest.mark.parametrize("count", [1, 5])
def test_rows_that_depend_on_each_other_are_refused(layer, cause, count, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    with pytest.raises(ExportError, match=f"must not depend on the other images of its batch.*{cause}"):
        export_backbone(ByBatch(layer), tmp_path / "b.onnx", images)
    assert not (tmp_path / "b.onnx").exists()
