"""Linear layers say what torch's say, by whichever library, and which one it is depends on the CPU alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import products
from trainer.products import GeluLinear, Linear, least_for_onednn, linear


@pytest.fixture(params=["MKL", "oneDNN", "oneDNN, half width"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(products, "least_for_onednn", lambda: math.inf if request.param == "MKL" else 0)
    monkeypatch.setattr(products, "_has_half_width", lambda: "half" in request.param)
    return str(request.param)


@pytest.fixture
def fresh_decision() -> Iterator[None]:
    for cached in (least_for_onednn, products._has_half_width):
        cached.cache_clear()
    yield
    for cached in (least_for_onednn, products._has_half_width):
        cached.cache_clear()


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rows", [(), (1,), (37,), (5, 27)])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 96), (96, 24), (13, 13)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_and_its_gradients_are_those_of_double_precision(
    library: str, rows: tuple[int, ...], inputs: int, outputs: int, has_bias: bool
) -> None:
    exact = [drawn(*rows, inputs, seed=0), drawn(outputs, inputs, seed=1), *([drawn(outputs, seed=2)] if has_bias else [])]
    above = drawn(*rows, outputs, seed=3)
    single = [tensor.float().requires_grad_() for tensor in exact]
    double = [tensor.clone().requires_grad_() for tensor in exact]
    found, expected = linear(*single), F.linear(*double)
    found.backward(above.float())
    expected.backward(above)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(single, double, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.is_contiguous()
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-4)


def test_a_gradient_that_is_a_view_of_one_number_is_taken(library: str) -> None:
    x, weight = drawn(6, 4, seed=0).float(), drawn(3, 4, seed=1).float().requires_grad_()
    linear(x, weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, x.sum(dim=0).expand(3, 4))


def test_gelu_with_and_without_gradient_is_that_of_double_precision(library: str) -> None:
    x, weight, bias = drawn(5, 27, 24, seed=0), drawn(96, 24, seed=1), drawn(96, seed=2)
    expected = F.gelu(F.linear(x, weight, bias))
    layer = GeluLinear(24, 96)
    layer.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    with torch.no_grad():
        torch.testing.assert_close(layer(x.float()).double(), expected, rtol=1e-5, atol=1e-4)
    found = layer(x.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    found.sum().backward()
    assert layer.weight.grad is not None


def test_two_layers_with_gelu_between_have_the_gradients_of_double_precision(library: str) -> None:
    first, second = GeluLinear(24, 96), Linear(96, 24)
    x = drawn(37, 24, seed=0).float().requires_grad_()
    found = second(first(x))
    found.backward(drawn(37, 24, seed=1).float())
    double = [tensor.detach().double().requires_grad_() for tensor in (x, *first.parameters(), *second.parameters())]
    again, weight, bias, next_weight, next_bias = double
    F.linear(F.gelu(F.linear(again, weight, bias)), next_weight, next_bias).backward(drawn(37, 24, seed=1))
    for ours, theirs in zip((x, *first.parameters(), *second.parameters()), double, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-4)


def test_only_what_learns_gets_a_gradient(library: str) -> None:
    layer = Linear(4, 3).requires_grad_(False)
    x = drawn(2, 4, seed=0).float().requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_the_same_product_twice_is_equal_to_the_bit(library: str) -> None:
    def once() -> list[Tensor]:
        x, weight = drawn(301, 96, seed=0).float().requires_grad_(), drawn(384, 96, seed=1).float().requires_grad_()
        found = linear(x, weight)
        found.square().sum().backward()
        assert x.grad is not None
        assert weight.grad is not None
        return [found, x.grad, weight.grad]

    assert all(torch.equal(first, second) for first, second in zip(once(), once(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_and_no_rows_at_all_are_torchs_own(library: str, dtype: torch.dtype) -> None:
    x, weight = drawn(5, 4, seed=0).to(dtype), drawn(3, 4, seed=1).to(dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert linear(x[:0].float(), weight.float()).shape == (0, 3)


def test_under_autocast_the_precision_is_torchs(library: str) -> None:
    x, weight = drawn(5, 4, seed=0).float(), drawn(3, 4, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


def test_the_layer_has_the_parameters_of_torchs(library: str) -> None:
    torch.manual_seed(0)
    ours = Linear(5, 3)
    torch.manual_seed(0)
    theirs = nn.Linear(5, 3)
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("cpu", "capability", "expected"),
    [
        (("AuthenticAMD", 26), "AVX512", products._LEAST),
        (("AuthenticAMD", 25), "AVX512", products._LEAST_HALF_WIDTH),
        (("GenuineIntel", 6), "AVX512", math.inf),
        (("AuthenticAMD", 26), "AVX2", math.inf),
    ],
)
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this build of torch has no MKL to be faster than")
def test_onednn_is_taken_for_large_products_where_mkl_leaves_avx512_unused(
    fresh_decision: None, monkeypatch: pytest.MonkeyPatch, cpu: tuple[str, int], capability: str, expected: float
) -> None:
    monkeypatch.setattr(products, "_cpu", lambda: cpu)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert least_for_onednn() == expected


TWO_CPUS = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model name\t: AMD EPYC: 9

processor\t: 1
vendor_id\t: Other
cpu family\t: 3
"""


@pytest.mark.parametrize(
    ("described", "expected"),
    [(TWO_CPUS, ("AuthenticAMD", 26)), ("processor\t: 0\nBogoMIPS\t: 50\n", ("GenuineIntel", 0)), ("", ("GenuineIntel", 0))],
)
def test_maker_and_family_are_those_of_the_first_cpu_or_mkls_own(described: str, expected: tuple[str, int]) -> None:
    assert products._named(described) == expected
