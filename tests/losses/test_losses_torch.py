"""The losses with Torch: half precision, compilation, distribution, checkpoints and memory."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
import textwrap
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from statsvc.losses import CombinedLoss, CrossEntropyLoss, DiceLoss, class_sums, softmax
from statsvc.weighting.class_weights import ClassWeights
from support.loss_inputs import logits_of, target_of, value_and_gradient, weights_of
from support.reference_losses import reference_losses
from support.torchrun import subprocess_environment

ROOT = Path(__file__).parents[2]
WEIGHTS = [0.5, 2.0, 1.0, 0.25]


@pytest.mark.parametrize("options", [{}, {"focal_gamma": [0.5, 2, 1, 0]}, {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("channels", [1, 4])
def test_every_term_of_half_precision_logits_has_a_loss_in_float32(
    channels: int, options: dict[str, Any]
) -> None:
    logits = logits_of((2, channels, 64, 64), dtype=torch.float16)
    target = target_of(logits)
    if channels == 1 and "focal_gamma" in options:
        options = {"focal_gamma": [0.5, 2]}
    value, gradient = value_and_gradient(CombinedLoss(**options), logits, target)
    exact = logits.detach().double().requires_grad_()
    loss, _, _ = reference_losses(exact, target, **options)
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(value, loss.float(), rtol=1e-6, atol=0)
    expected = torch.autograd.grad(loss, exact)[0]
    torch.testing.assert_close(gradient, expected.half(), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    # Half the pixels have one class. The sum, 131072, overflows float16, and bfloat16 stops counting at 256.
    logits = logits_of((1, 4, 512, 512), dtype=dtype)
    target = target_of(logits)
    target[:, :256] = 1
    value, gradient = value_and_gradient(CombinedLoss(class_weights=WEIGHTS), logits, target)
    exact = logits.detach().double().requires_grad_()
    loss, _, _ = reference_losses(exact, target, class_weights=WEIGHTS)
    expected = torch.autograd.grad(loss, exact)[0]
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, loss.float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradient, expected.to(dtype), rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-7
    )


def test_autocast_changes_the_logits_but_not_the_loss() -> None:
    torch.manual_seed(0)
    model, image = nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 16, 16)
    criterion = CombinedLoss(class_weights=WEIGHTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(image)
        target = target_of(logits)
        inside = criterion(logits, target)
        inside.backward()  # also under autocast
    assert logits.dtype == torch.bfloat16
    assert inside.dtype == torch.float32
    assert torch.equal(inside, criterion(logits, target))
    assert model.weight.grad is not None
    assert model.weight.grad.abs().sum() > 0


def test_the_precision_of_matrix_products_does_not_affect_the_loss() -> None:
    logits = logits_of((2, 4, 64, 64), dtype=torch.float32)
    target = target_of(logits)
    expected = value_and_gradient(CombinedLoss(), logits, target)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        actual = value_and_gradient(CombinedLoss(), logits, target)
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


# A warning of Torch itself, from a module that its compiler imports.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (CombinedLoss, "inductor"),
        (CombinedLoss, "aot_eager"),
        (partial(CombinedLoss, focal_gamma=2), "aot_eager"),
    ],
)
def test_the_compiled_loss_is_a_single_graph_with_the_same_result(make: Any, backend: str) -> None:
    torch._dynamo.reset()
    criterion = make(class_weights=WEIGHTS, batch_dice=True)
    compiled = torch.compile(criterion, fullgraph=True, backend=backend)
    for height in (6, 9, 12):  # the second and third use dynamic shapes
        logits = logits_of((2, 4, height, 5), dtype=torch.float32)
        target = target_of(logits)
        expected = value_and_gradient(criterion, logits, target)
        actual = value_and_gradient(compiled, logits, target)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(criterion.last["loss"], actual[0])
    with pytest.raises(ValueError, match="target: contains 77"):
        compiled(logits, target.masked_fill(target == 2, 77))  # type: ignore[no-untyped-call]


def test_model_and_loss_compiled_together_have_the_same_gradients() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, image = nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 8, 8)
    target = target_of(model(image))
    criterion = CombinedLoss(class_weights=[0.0, -1.0, -2.0, -3.0], kind="additive", square_denominator=True)

    def step() -> Tensor:
        loss: Tensor = criterion(model(image), target)
        return loss

    step().backward()  # type: ignore[no-untyped-call]
    assert model.weight.grad is not None
    expected = model.weight.grad.clone()
    model.zero_grad()
    torch.compile(step, fullgraph=True, backend="aot_eager")().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(model.weight.grad, expected)


def test_the_custom_operators_pass_torchs_own_checks() -> None:
    logits = logits_of((2, 4, 5, 3))
    offset = torch.tensor([0.0, -1, -2, -3], dtype=torch.float64)
    gamma, one_channel = torch.tensor([0.0, 0.5, 1, 2]), logits_of((2, 1, 5, 3))
    sums: Any = class_sums.class_sums
    for arguments in (
        (logits, target_of(logits), None, None, [255], False, False, True),
        (logits, target_of(logits), offset, gamma, [255, 254], True, True, False),
        (one_channel, target_of(one_channel), offset[:2], gamma[:2], [255], False, True, True),
    ):
        results = torch.library.opcheck(sums, arguments)
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_compiled_loss_of_one_channel_is_a_single_graph_with_the_same_result() -> None:
    torch._dynamo.reset()
    criterion = CombinedLoss(focal_gamma=[0.5, 2], ignore_index=[255, 254], class_weights=[1, 3])
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for height in (6, 9):
        logits = logits_of((2, 1, height, 5), dtype=torch.float32)
        target = target_of(logits, ignore_index=[255, 254])
        expected = value_and_gradient(criterion, logits, target)
        torch.testing.assert_close(value_and_gradient(compiled, logits, target), expected)
    with pytest.raises(ValueError, match=r"target: contains 2 .*class ids 0 … 1"):
        compiled(logits, target + 2)


@pytest.mark.parametrize("space", [(6, 5), (3, 4, 5)])
def test_the_memory_layout_of_the_logits_does_not_change_the_loss(space: tuple[int, ...]) -> None:
    logits = logits_of((2, 4, *space)).detach()
    target = target_of(logits)
    expected_value, expected = value_and_gradient(CombinedLoss(), logits, target)
    last = torch.channels_last if len(space) == 2 else torch.channels_last_3d
    layouts = {
        "channels last": logits.contiguous(memory_format=last),
        "transposed": logits.transpose(2, 3).contiguous().transpose(2, 3),
        "cropped": nn.functional.pad(logits, [1, 2, 3, 4])[..., 3:-4, 1:-2],
    }
    for name, layout in layouts.items():
        leaf = layout.detach().requires_grad_()
        value = CombinedLoss()(leaf, target)
        value.backward()
        assert leaf.grad is not None
        torch.testing.assert_close(value.detach(), expected_value, msg=name)
        torch.testing.assert_close(leaf.grad, expected, msg=name)
    x = layouts["channels last"].requires_grad_()
    CombinedLoss()(x, target).backward()
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=last)


def test_sums_by_class_of_the_cpu_and_of_other_devices_are_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(5, (3, 40), generator=generator)
    ignored = torch.rand((3, 40), generator=generator) < 0.2
    nll, of_label = (torch.rand((2, 3, 40), generator=generator).double() * ~ignored).unbind()
    sums = [
        by_class(label.where(~ignored, 0), ignored, nll, of_label, 5)
        for by_class in (softmax._by_class_on_cpu, softmax._by_class)
    ]
    for on_cpu, elsewhere in zip(*sums, strict=True):
        torch.testing.assert_close(on_cpu, elsewhere)
    assert int(sums[0][0].sum()) == int((~ignored).sum())


def test_logits_modified_before_the_backward_pass_raise_an_error() -> None:
    logits = logits_of((1, 4, 5, 5)) * 1
    loss = CombinedLoss()(logits, target_of(logits))
    logits.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_backward_pass_does_not_modify_its_input_and_can_be_repeated() -> None:
    logits = logits_of((2, 4, 5, 5))
    before = logits.detach().clone()
    target = target_of(logits)
    loss = CombinedLoss()(logits, target)
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    second = torch.autograd.grad(loss, logits)[0]
    assert torch.equal(first, second)
    assert torch.equal(logits, before)


def test_a_second_derivative_raises_an_error() -> None:
    logits = logits_of((1, 4, 5, 5))
    gradient = torch.autograd.grad(CombinedLoss()(logits, target_of(logits)), logits, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"no autograd formula|does not require grad"):
        gradient.sum().backward()  # type: ignore[no-untyped-call]


TRANSFORMED: list[Any] = [
    lambda: CombinedLoss(class_weights=WEIGHTS),
    lambda: DiceLoss(batch_dice=True, square_denominator=True, absent="penalise"),
    lambda: CombinedLoss(class_weights=[0.0, -1, -2, 3], kind="additive"),
    lambda: CombinedLoss(class_weights=WEIGHTS, label_smoothing=0.1, tversky_beta=0.7),
    lambda: CombinedLoss(focal_gamma=[0, 0.5, 1, 2], focal_alpha=0.3, tversky_gamma=0.75),
]


# A warning of Torch itself, which compiles its own forward-mode formulas.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("make", TRANSFORMED)
def test_torch_func_and_forward_mode_derivatives_equal_those_of_the_plain_implementation(make: Any) -> None:
    criterion = make()
    names = set(inspect.signature(CombinedLoss).parameters) - {"class_weights", "kind"}
    options = {name: getattr(criterion, name) for name in names}
    vector = criterion.weight if criterion.offset is None else criterion.offset
    options |= {"class_weights": None if vector is None else vector.tolist()}
    options |= {"kind": "weights" if criterion.offset is None else "additive"}

    def loss(x: Tensor) -> Tensor:
        value: Tensor = criterion(x, target)
        return value

    def reference(x: Tensor) -> Tensor:
        return reference_losses(x, target, **options)[0]

    autograd: Any = torch.autograd.functional
    logits = logits_of((2, 4, 3, 2)).detach()
    direction = logits_of((2, 4, 3, 2), seed=1).detach()
    target = target_of(logits)
    expected = autograd.jacobian(reference, logits)
    assert_close = torch.testing.assert_close
    forward_ad: Any = torch.autograd.forward_ad
    assert_close(loss(logits), reference(logits))
    assert_close(torch.func.grad(loss)(logits), expected)
    assert_close(torch.func.vjp(loss, logits)[1](torch.tensor(2.0).double())[0], 2 * expected)
    assert_close(torch.func.jacfwd(loss)(logits), expected)
    assert_close(torch.func.hessian(loss)(logits), autograd.hessian(reference, logits))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits, direction)
        tangent = forward_ad.unpack_dual(loss(dual)).tangent
    assert_close(tangent, (expected * direction).sum())
    # An ignored pixel adds nothing to any derivative, whatever its logits.
    poisoned = logits.masked_fill((target == 255)[:, None], torch.nan)
    assert_close(torch.func.grad(loss)(poisoned), expected)
    assert_close(torch.func.jvp(loss, (poisoned,), (direction,))[1], tangent)
    logits[0, 0, target[0] != 255] = torch.nan
    assert torch.func.jvp(loss, (logits,), (direction,))[1].isnan()


# A warning of Torch itself, which compiles its own forward-mode formulas.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_tangent_of_a_loss_has_its_dtype(dtype: torch.dtype) -> None:
    logits = logits_of((2, 4, 3, 2), dtype=dtype).detach()
    target = target_of(logits)
    for criterion in (
        CombinedLoss(class_weights=WEIGHTS),
        CrossEntropyLoss(gamma=[0, 0.5, 1, 2]),
        DiceLoss(),
    ):
        result: Any = torch.func.jvp(lambda x, c=criterion: c(x, target), (logits,), (logits,))
        value, tangent = result
        assert value.dtype == tangent.dtype
        assert torch.func.grad(lambda x, c=criterion: c(x, target))(logits).dtype == dtype


def test_vmap_gives_the_gradient_of_each_sample_and_checks_every_target() -> None:
    logits = logits_of((3, 4, 3, 2)).detach()
    target = target_of(logits)
    criterion = CombinedLoss(class_weights=WEIGHTS)

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = criterion(x[None], labels[None])
        return value

    gradients = torch.func.vmap(torch.func.grad(loss))(logits, target)
    for x, labels, gradient in zip(logits, target, gradients, strict=True):
        torch.testing.assert_close(gradient[None], value_and_gradient(criterion, x[None], labels[None])[1])
    torch.func.vmap(loss)(logits, target)
    assert criterion.last["loss"].tolist() == pytest.approx(
        [float(loss(x, labels)) for x, labels in zip(logits, target, strict=True)]
    )
    with pytest.raises(ValueError, match="target: contains 77"):
        torch.func.vmap(loss)(logits, target.masked_fill(target == 2, 77))


def test_a_checkpoint_has_the_provenance_of_the_weights_but_not_the_weights() -> None:
    model = nn.ModuleDict(
        {"head": nn.Conv2d(3, 3, 1), "loss": CombinedLoss(class_weights=weights_of("sqrt_inv_freq"))}
    )
    state = model.state_dict()
    assert set(state) == {"head.weight", "head.bias", "loss.provenance_record"}
    assert all(isinstance(value, Tensor) for value in state.values())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(loaded)
    provenance: Any = model["loss"].provenance
    assert provenance["dataset"] == "demo"
    assert provenance["spec"]["normalize"] == "mean"


@pytest.mark.parametrize("kind", ["weights", "additive"])
def test_a_model_in_half_precision_keeps_the_weights_in_float32(kind: Any) -> None:
    exact = [0.1, 1 / 3, 300.7]
    criterion = CombinedLoss(class_weights=exact, kind=kind)
    model = nn.ModuleDict({"head": nn.Conv2d(3, 3, 1), "loss": criterion})
    logits = logits_of((2, 3, 4, 4), dtype=torch.float16)
    expected = criterion(logits, target_of(logits))
    for change in (model.half, model.bfloat16, model.double, lambda: model.to(torch.float16)):
        change()
        vector = criterion.weight if kind == "weights" else criterion.offset
        assert vector is not None
        assert vector.dtype == torch.float32
        assert vector.tolist() == pytest.approx(exact, rel=1e-7)
        torch.testing.assert_close(criterion(logits, target_of(logits)), expected, rtol=0, atol=0)
    model.to("meta", torch.float16)
    vector = criterion.weight if kind == "weights" else criterion.offset
    assert vector is not None
    assert (vector.device.type, vector.dtype) == ("meta", torch.float32)


def test_a_checkpoint_from_before_the_loss_was_added_loads_strictly() -> None:
    model = nn.ModuleDict({"head": nn.Conv2d(3, 3, 1)})
    state = model.state_dict()
    model["loss"] = CombinedLoss(class_weights=[1, 2, 3])
    model.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Missing key.*head\.bias"):
        model.load_state_dict({"head.weight": state["head.weight"]})


def test_loading_weights_of_another_version_warns() -> None:
    old = weights_of("uniform").to_dict()
    saved = CombinedLoss(class_weights=ClassWeights({**old, "version": 3}))
    current = CombinedLoss(class_weights=ClassWeights({**old, "version": 4}))
    with pytest.warns(UserWarning, match=r"uniform of demo version 3, now .* version 4 \(version changed"):
        current.load_state_dict(saved.state_dict())
    assert "uniform of demo version 4" in repr(current)


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the measurement requires Linux's /proc"
)
def test_forward_and_backward_pass_allocate_one_tensor_of_the_logits_size() -> None:
    command = [sys.executable, "benchmarks/losses.py", "--shape", "4,19,512,512"]
    group = ["--peak", "weighted, a tenth ignored, Dice of the batch", "statsvc CombinedLoss"]
    process = subprocess.run([*command, *group], cwd=ROOT, capture_output=True, text=True, check=True)
    logits_bytes = 4 * 4 * 19 * 512 * 512
    assert logits_bytes <= int(process.stdout) < 1.4 * logits_bytes


DISTRIBUTED = textwrap.dedent(
    """
    import sys
    import torch
    import torch.distributed as dist
    from support.reference_losses import reference_losses
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from statsvc.errors import InvalidParameter
    from statsvc.losses import CombinedLoss, DiceLoss

    rank, file = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8, dtype=torch.double)
    target = torch.randint(4, (4, 8, 8))
    target[0] = 255
    target[1, :4] = 255
    target[2:] = target[2:].clamp(max=2)  # only the first process has class 3
    one_sided = target.clone()
    one_sided[:2] = 255  # the first process has no valid pixel
    own = slice(2 * rank, 2 * rank + 2)

    def model():
        torch.manual_seed(1)
        return nn.Conv2d(3, 4, 3, padding=1).double()

    for labels in (target, one_sided):
        for make, parts in ((DiceLoss, {"ce_weight": 0, "dice_weight": 1}), (CombinedLoss, {})):
            for absent in ("skip", "penalise"):
                options = {"class_weights": [0.5, 2.0, 0.0, 1.0], "batch_dice": True, "absent": absent}
                joined = model()
                expected, _, _ = reference_losses(joined(images), labels, **options, **parts)
                expected.backward()
                steps = [make(**options)]
                if make is CombinedLoss and absent == "skip":
                    steps.append(torch.compile(steps[0], fullgraph=True, backend="aot_eager"))
                for step in steps:
                    parallel = DistributedDataParallel(model())
                    loss = step(parallel(images[own]), labels[own])
                    loss.backward()
                    torch.testing.assert_close(loss, expected)
                    for actual, wanted in zip(parallel.parameters(), joined.parameters(), strict=True):
                        torch.testing.assert_close(actual.grad, wanted.grad)

    # An invalid target on one process raises on both, so that neither waits for the other.
    wrong = target.clone()
    wrong[3, 0, :2] = 9
    for step in (DiceLoss(batch_dice=True), torch.compile(DiceLoss(batch_dice=True), backend="aot_eager")):
        try:
            step(model()(images[own]), wrong[own])
        except InvalidParameter as error:
            assert ("of rank 1 contains values", "contains 9 (2 pixels)")[rank] in str(error), error
        else:
            raise AssertionError("the invalid target was accepted")

    if rank == 0:  # a single process can validate
        with torch.no_grad():
            alone = CombinedLoss(batch_dice=True)(joined(images), target)
        torch.testing.assert_close(alone, reference_losses(joined(images), target, batch_dice=True)[0])
    dist.barrier()
    dist.destroy_process_group()
    print("equal")
    """
)


def test_batch_dice_over_two_processes_equals_that_of_the_joined_batch(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "store")],
            env=subprocess_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [stdout for stdout, _ in outputs] == ["equal\n", "equal\n"], outputs
