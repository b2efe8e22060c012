import http.server
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.ndimage import correlate1d
from torch import nn

from local_server import listening
from pneumoscope.backbone import build, load_weights
from pneumoscope.errors import UsageError, WeightsError


def grey_batch(size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_resnet50_has_the_capstones_head() -> None:
    network, report = build("resnet50", classes=3, size=64)
    last = network.body.get_classifier()
    assert isinstance(last, nn.Linear)
    assert last.in_features == 2048
    assert last.out_features == 3
    assert report is None
    assert len(network.second_head) == 0
    assert network.body.conv1.in_channels == 1


@pytest.fixture(scope="module")
def vgg() -> Any:
    return build("vgg19_bn", classes=3, size=64)[0].eval()


def test_vgg19_bn_has_the_capstones_head(vgg: Any) -> None:
    relu, dropout, linear = vgg.second_head
    assert isinstance(relu, nn.ReLU)
    assert type(dropout) is nn.Dropout
    assert dropout.p == 0.5
    assert linear.in_features == 1000
    assert linear.out_features == 3
    assert vgg.body.get_classifier().out_features == 1000
    assert [module.p for module in vgg.body.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.5]
    parameters = sum(parameter.numel() for parameter in vgg.parameters())
    published, colour, head = 143_678_248, 2 * 64 * 9, 1000 * 3 + 3  # torchvision's vgg19_bn
    assert parameters == published - colour + head


@pytest.mark.parametrize("taps", [1, 3, 9])
def test_the_low_pass_filter_is_scipys_correlation_with_repeated_edges(taps: int) -> None:
    network, _ = build("test_resnet", classes=3, size=64, low_pass=taps)
    images = grey_batch()
    kernel = np.array([1.0])
    for _ in range(taps - 1):
        kernel = np.convolve(kernel, [0.5, 0.5])
    expected = network.normalise(images).double().numpy()
    for axis in (2, 3):
        expected = correlate1d(expected, kernel, axis=axis, mode="nearest")
    np.testing.assert_allclose(network.prepare(images).numpy(), expected, atol=1e-5)
    torch.testing.assert_close(network.eval()(images), network.body(network.prepare(images)))


def test_the_filter_of_evaluation_can_differ_from_that_of_training() -> None:
    images = grey_batch()
    network, _ = build("test_resnet", classes=3, size=64, low_pass=3, eval_low_pass=7)
    for training, taps in ((True, 3), (False, 7), (True, 3)):
        expected, _ = build("test_resnet", classes=3, size=64, low_pass=taps)
        torch.testing.assert_close(network.train(training).prepare(images), expected.prepare(images))
    assert network.double().prepare(images).dtype == torch.float64  # the filters are converted with the network


def test_vgg_freezes_its_convolutions_only() -> None:
    network, _ = build("vgg19_bn", classes=3, size=64, freeze=True)
    frozen = {name.split(".")[1] for name, value in network.named_parameters() if not value.requires_grad}
    free = {".".join(name.split(".")[:2]) for name, value in network.named_parameters() if value.requires_grad}
    assert frozen == {"features"}
    assert free == {"body.pre_logits", "body.head", "second_head.2"}


@pytest.mark.parametrize(("arch", "classifier"), [("resnet18", "fc"), ("test_efficientnet", "classifier")])
def test_freezing_trains_the_classifier_only_and_keeps_batch_norm(arch: str, classifier: str) -> None:
    """EfficientNet's batch norms contain their activation, so they are not leaves of the module tree."""
    network, _ = build(arch, classes=3, size=64, freeze=True)
    head = {f"body.{classifier}.weight", f"body.{classifier}.bias"}
    assert {name for name, value in network.named_parameters() if value.requires_grad} == head
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([value for value in network.parameters() if value.requires_grad], lr=0.1)
    network(grey_batch()).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == head


@pytest.mark.parametrize("arch", ["resnet18", "test_efficientnet"])
def test_unfreezing_undoes_freezing(arch: str) -> None:
    network, _ = build(arch, classes=3, size=64, freeze=True)
    network.train().unfreeze()
    assert all(value.requires_grad for value in network.parameters())
    assert all(module.training for module in network.modules())
    assert not network.eval().training
    network.unfreeze()
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_vit"])
def test_the_last_layer_starts_with_the_given_deviation(arch: str) -> None:
    network, _ = build(arch, classes=50, size=96)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.initialise_head(0.01)
    head = network.head()
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert head.bias is not None
    assert not head.bias.any()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[0] for name in changed} == {
        name for name, module in network.named_modules() if module is head
    }


def test_the_capstones_second_head_is_the_last_layer(vgg: Any) -> None:
    assert vgg.head() is vgg.second_head[2]


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet"])
def test_batch_norm_moves_by_its_momentum(arch: str) -> None:
    """The share `momentum` of a step's batch enters the running means: PyTorch's meaning, not TensorFlow's."""
    network, _ = build(arch, classes=3, size=64)
    network.set_batch_norm_momentum(0.25)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {norm.momentum for norm in norms} == {0.25}
    seen: list[torch.Tensor] = []
    norms[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    network.train()(grey_batch())
    torch.testing.assert_close(norms[0].running_mean, 0.25 * seen[0].mean(dim=(0, 2, 3)))


def test_dropout_and_stochastic_depth_are_the_networks_own() -> None:
    network, _ = build("test_efficientnet", classes=3, size=64, dropout=0.3, drop_path=0.2)
    assert network.body.drop_rate == 0.3
    assert any(type(module).__name__ == "DropPath" for module in network.modules())
    torch.testing.assert_close(network.eval()(grey_batch()), network(grey_batch()))


@pytest.mark.parametrize(
    ("arch", "options"),
    [("vgg11", {"drop_path": 0.1}), ("vgg19_bn", {"dropout": 0.1}), ("vgg19_bn", {"drop_path": 0.1})],
)
def test_an_option_that_the_network_lacks_is_an_error(arch: str, options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=rf"--arch {arch} has .*leave dropout (or|and) drop_path out\."):
        build(arch, classes=3, size=64, **options)  # type: ignore[arg-type]


def test_without_freezing_everything_trains() -> None:
    network, _ = build("test_resnet", classes=3, size=48)
    assert all(value.requires_grad for value in network.parameters())


@pytest.mark.parametrize("arch", ["resnet18", "test_convnext", "test_efficientnet"])
def test_summed_first_convolution_equals_three_equal_channels(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    colour = timm.create_model(arch, num_classes=3, in_chans=3).eval()
    save_file(colour.state_dict(), tmp_path / "colour.safetensors")
    network, report = build(arch, classes=3, size=64, weights=str(tmp_path / "colour.safetensors"))
    assert report is not None
    assert len(report.summed) == 1
    assert not report.left_random
    images = grey_batch()
    with torch.no_grad():
        expected = colour(network.normalise(images).repeat(1, 3, 1, 1))
        torch.testing.assert_close(network.eval()(images), expected, rtol=1e-4, atol=1e-5)


def test_torchvision_vgg_weights_fit(tmp_path: Path) -> None:
    from torchvision.models import vgg19_bn

    torch.manual_seed(0)
    theirs = vgg19_bn().eval()
    torch.save(theirs.state_dict(), tmp_path / "vgg19_bn.pth")
    network, report = build("vgg19_bn", classes=3, size=224, weights=str(tmp_path / "vgg19_bn.pth"))
    assert report is not None
    assert report.left_random == ("second_head.2.weight", "second_head.2.bias")
    assert not report.not_used
    images = grey_batch(224)
    with torch.no_grad():
        expected = theirs(network.normalise(images).repeat(1, 3, 1, 1))
        torch.testing.assert_close(network.eval().body(network.normalise(images)), expected, rtol=1e-4, atol=1e-5)


def test_another_number_of_classes_leaves_the_head_at_random_and_reports_it(tmp_path: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in donor.state_dict().items()}}, tmp_path / "w.pt"
    )
    _, report = build("test_resnet", classes=3, size=48, weights=str(tmp_path / "w.pt"))
    assert report is not None
    assert report.left_random == ("body.fc.weight", "body.fc.bias")
    assert "2 keep their random values (body.fc.weight, body.fc.bias)" in str(report)
    assert "not used" in str(report)


class Exploit:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch exploited",)


def test_code_in_a_weights_file_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "evil.pt").open("wb") as stream:
        pickle.dump({"state_dict": Exploit()}, stream)
    with pytest.raises(WeightsError, match="neither safetensors nor a plain torch state dict"):
        build("test_resnet", classes=3, size=48, weights="evil.pt")
    assert not (tmp_path / "exploited").exists()


def test_unusable_weights_files_are_errors(tmp_path: Path) -> None:
    network, _ = build("test_resnet", classes=3, size=48)
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(network, tmp_path / "nothing.pt")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(WeightsError, match="neither safetensors"):
        load_weights(network, tmp_path / "text.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="no state dict"):
        load_weights(network, tmp_path / "list.pt")
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="does not fit"):
        load_weights(network, tmp_path / "other.pt")
    one = dict(list(network.body.state_dict().items())[:1])
    torch.save(one, tmp_path / "one.pt")
    with pytest.raises(WeightsError, match=r"1 of .* tensors match"):
        load_weights(network, tmp_path / "one.pt")


def test_unknown_network_names_similar_ones() -> None:
    with pytest.raises(UsageError, match=r"'resnet51' is not a timm network; similar names: .*resnet"):
        build("resnet51", classes=3, size=64)


@pytest.mark.parametrize("arch", ["test_vit", "test_efficientnet", "test_convnext", "test_resnet"])
def test_any_timm_classifier_gives_logits_and_embedding(arch: str) -> None:
    network, _ = build(arch, classes=4, size=96)
    with torch.no_grad():
        logits, embedding = network.eval().forward_with_embedding(grey_batch(96))
        torch.testing.assert_close(logits, network(grey_batch(96)))
    assert logits.shape == (2, 4)
    assert embedding.ndim == 2
    assert embedding.shape[1] == network.body.num_features


def test_imagenet_weights_offline_give_one_sentence_with_the_alternatives(tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    code = "from pneumoscope.backbone import build; build('resnet18', classes=3, size=64, weights='imagenet')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "WeightsError" in last
    for words in ("timm/resnet18.a1_in1k", "--weights FILE", "HF_HOME", "--weights none"):
        assert words in last


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A local server that answers like the hub for one repository's safetensors file."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=1000, in_chans=3).state_dict(), tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requested.append(self.path)
            known = self.path.endswith("/resolve/main/model.safetensors")
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(data) if known else 0))
            self.send_header("ETag", '"0123456789abcdef0123456789abcdef"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with listening(server):
        yield f"http://127.0.0.1:{server.server_port}", requested


def test_imagenet_weights_come_through_timm_from_the_hub(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, requested = hub
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    code = (
        "import json, torch; from pneumoscope.backbone import build;"
        "n, _ = build('test_resnet', classes=3, size=48, weights='imagenet');"
        "print(json.dumps(n.body.conv1[0].weight.flatten().tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    published: Any = timm.create_model("test_resnet", num_classes=1000, in_chans=3)
    expected = published.conv1[0].weight.detach().sum(dim=1).flatten()
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-5, atol=1e-6)
    assert any("test_resnet" in path for path in requested)
