"""The synchronised batch norm against PyTorch's own on the whole batch, on the CPU and, where there is one, a GPU."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from sync_bn_cases import (
    CASES,
    CHANNELS,
    SPLITS,
    TOLERANCES,
    Case,
    batch,
    fill,
    relative_error,
    run_ours,
    run_reference,
    work,
)
from torch import nn

from exts.sync_bn import COMPILED, SyncBatchNorm, formulas
from exts.sync_bn import module as sync_bn_module
from lib.base.errors import UserError

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
ACTIVATIONS = ["none", "relu", "leaky_relu"]

pytestmark = pytest.mark.skipif("cpu" not in COMPILED, reason="exts/sync_bn is not built: bash exts/make.sh")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def processes():
    """What each of four gloo processes found, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (folder,), nprocs=4)
        # Written a moment ago by this file.
        yield [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(4)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("size", SPLITS)
def test_processes_do_as_batch_norm_on_the_whole_batch(processes, size, case):
    expected, found = run_reference(case), [process[size, case] for process in processes[:size]]
    for name in ("y", "x.grad"):
        assert relative_error(torch.cat([each[name] for each in found]), expected[name]) < TOLERANCES[case.dtype]
    for name in ("weight.grad", "bias.grad"):
        assert relative_error(sum(each[name] for each in found), expected[name]) < TOLERANCES[case.dtype]
    for each in found:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert relative_error(each[name], expected[name]) < min(1e-6, TOLERANCES[case.dtype] * 10)


@pytest.mark.parametrize("size", SPLITS)
def test_there_is_one_collective_in_each_direction_and_none_in_a_group_of_one(processes, size):
    collectives = processes[0][size, "collectives"]
    assert sorted(collectives.values()) == ([] if size == 1 else [1, 1])
    assert all(word in " ".join(collectives) for word in ("allgather", "allreduce") if size > 1)


def test_evaluation_needs_no_other_process(processes):
    assert processes[0]["eval"].shape == (1, CHANNELS)


def test_a_batch_that_is_empty_everywhere_changes_no_statistics(processes):
    for process in processes:
        found = process["empty"]
        assert found["y"].shape == found["x.grad"].shape == (0, CHANNELS, 9, 5)
        assert (found["running_mean"] == 0.5).all() and (found["running_var"] == 2).all()
        assert (found["weight.grad"] == 0).all()


def test_the_compiled_layer_synchronises_too(processes):
    assert all(max(process["compiled"]) < 1e-3 for process in processes[:2])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_alone_it_does_as_batch_norm(device, case):
    found, expected = run_ours(case, *(tensor.to(device) for tensor in batch(case.dtype))), run_reference(case)
    for name, value in expected.items():
        assert relative_error(found[name], value) < TOLERANCES[case.dtype], name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "shape, reference",
    [
        ((4, 3), nn.BatchNorm1d),
        ((4, 3, 10), nn.BatchNorm1d),
        ((2, 3, 300, 70), nn.BatchNorm2d),  # planes of several blocks
        ((2, 300, 33, 3), nn.BatchNorm2d),
        ((2, 3, 4, 5, 6), nn.BatchNorm3d),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_it_takes_inputs_of_any_dimension(device, shape, reference, channels_last):
    theirs = reference(shape[1], device=device, dtype=torch.float64)
    ours = SyncBatchNorm(shape[1], device=device)
    x = torch.randn(shape, device=device)
    x = x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x
    for _ in range(2):
        torch.testing.assert_close(ours(x), theirs(x.double()).float())
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.float().state_dict()))
    y, expected = ours.eval()(x), theirs.eval()(x)
    torch.testing.assert_close(y, expected)
    assert y.stride() == x.stride()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str)
def test_options_are_those_of_batch_norm(device, options):
    theirs, ours = nn.BatchNorm2d(3, device=device, **options), SyncBatchNorm(3, device=device, **options)
    for step in range(6):
        theirs.train(step < 4), ours.train(step < 4)
        x = step + (step + 1) * torch.randn(2, 3, 5, 5, device=device)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = ours(a), theirs(b)
        y.square().sum().backward(), expected.square().sum().backward()
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_large_mean_costs_no_digits(device, channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = (1e4 + torch.randn(4, 3, 100, 120, device=device)).contiguous(memory_format=memory_format)
    grad = torch.randn_like(x)
    expected, a, b = nn.BatchNorm2d(3, device=device).double(), x.clone().requires_grad_(), x.double().requires_grad_()
    ours = SyncBatchNorm(3, device=device)
    y, z = ours(a), expected(b)
    y.backward(grad), z.backward(grad.double())
    for found, value in ((y, z), (a.grad, b.grad), (ours.weight.grad, expected.weight.grad)):
        assert relative_error(found.detach(), value.detach().cpu()) < 1e-5
    assert relative_error(ours.running_var, expected.running_var.cpu()) < 1e-6


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_in_other_layouts_are_taken_too(device):
    wide = torch.randn(3, 8, 6, 10, device=device)
    norm, reference = SyncBatchNorm(4, device=device), nn.BatchNorm2d(4, device=device)
    for x in (wide[:, ::2], wide.transpose(2, 3)[:, 2:6], wide[:, :4].flip(3)):
        a, b = x.detach().requires_grad_(), x.detach().requires_grad_()
        y, z = norm(a), reference(b)
        torch.testing.assert_close(y, z)
        # an expanded gradient, and one in the other memory format
        for grad in (
            torch.ones((), device=device).expand_as(y),
            torch.randn_like(y).to(memory_format=torch.channels_last),
        ):
            found = torch.autograd.grad(y, a, grad, retain_graph=True)
            torch.testing.assert_close(found, torch.autograd.grad(z, b, grad, retain_graph=True), atol=1e-5, rtol=1e-4)
    inplace = SyncBatchNorm(4, inplace=True, device=device)
    x = wide[:, ::2].clone(memory_format=torch.preserve_format)
    expected, view = nn.BatchNorm2d(4, device=device)(x), wide[:, ::2]
    assert inplace(view).data_ptr() == wide.data_ptr()
    torch.testing.assert_close(view, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("inplace, activation", [(False, "relu"), (True, "leaky_relu")])
def test_nothing_but_the_input_and_vectors_is_kept_for_backward(device, inplace, activation):
    norm = SyncBatchNorm(3, activation=activation, inplace=inplace, device=device)
    x = torch.randn(2, 3, 40, 40, device=device, requires_grad=True) * 1
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = norm(x)
    assert [tensor.data_ptr() for tensor in kept if tensor.numel() > 3] == [x.data_ptr()]
    assert (y.data_ptr() == x.data_ptr()) is inplace
    parameters = {norm.weight.data_ptr(), norm.bias.data_ptr()}
    vectors = [tensor for tensor in kept if tensor.numel() <= 3 and tensor.data_ptr() not in parameters]
    assert sum(tensor.numel() for tensor in vectors) == 2 * 3 + 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inplace", [False, True])
def test_forward_allocates_the_output_and_backward_the_gradient_alone(inplace, dtype, channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    leaf = torch.randn(2, 16, 100, 100).to(dtype, memory_format=memory_format).requires_grad_()
    grad, x = torch.randn_like(leaf), leaf * 1
    norm = SyncBatchNorm(16, activation="leaky_relu", inplace=inplace)
    with torch.profiler.profile(profile_memory=True) as forward:
        y = norm(x)
    with torch.profiler.profile(profile_memory=True) as backward:
        y.backward(grad)
    allocated = [
        [event.nbytes() for event in profile.profiler.kineto_results.events()
         if event.name() == "[memory]" and event.nbytes() > 1e5]
        for profile in (forward, backward)
    ]  # fmt: skip
    assert allocated[0] == ([] if inplace else [leaf.nbytes])
    # the layer's own, and that of the multiplication before it
    assert allocated[1] == [leaf.nbytes] * 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "activation, inplace", [(a, i) for a in ACTIVATIONS for i in (False, True) if a != "relu" or not i]
)
def test_gradients_are_those_of_finite_differences(device, training, activation, inplace):
    norm = SyncBatchNorm(2, activation=activation, inplace=inplace, slope=0.3, dtype=torch.float64, device=device)
    fill(norm)
    norm.train(training)
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, device=device, requires_grad=True)

    def apply(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x * 1,))

    assert torch.autograd.gradcheck(apply, (x, norm.weight, norm.bias))


def test_a_second_derivative_is_refused_by_name():
    x = torch.randn(3, 2, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(SyncBatchNorm(2)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="SyncBatchNorm has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
def test_infinities_and_nan_are_treated_as_by_relu(device):
    x = torch.tensor([[-torch.inf, torch.inf, torch.nan, -1.0]], device=device)
    y = SyncBatchNorm(4, activation="relu", device=device).eval()(x)
    torch.testing.assert_close(y, nn.ReLU()(nn.BatchNorm1d(4, device=device).eval()(x)), equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
def test_the_operators_pass_pytorchs_own_checks(device):
    ops = torch.ops.sync_bn
    x = torch.randn(2, 3, 4, 5, device=device, requires_grad=True)
    weight, bias = (torch.rand(3, device=device, requires_grad=True) for _ in range(2))
    row = ops.statistics(x.detach())
    mean, invstd, count = ops.finish(row[None], 1e-5, None, None, None, None)
    vectors = (weight, bias, mean, invstd)
    running = (torch.zeros(3, device=device), torch.ones(3, device=device), 0.1, None)
    plain = x.detach()
    frozen = tuple(vector.detach() for vector in vectors)
    total = ops.sums(plain, plain, *frozen, 0.0, False)
    torch.library.opcheck(ops.statistics, (plain,))
    torch.library.opcheck(ops.finish, (row[None], 1e-5, *running))
    torch.library.opcheck(ops.normalise, (x, *vectors, count, 0.0, ""))
    torch.library.opcheck(ops.normalise_, (plain.clone(), *frozen, 0.1))
    torch.library.opcheck(ops.sums, (plain, plain, *frozen, 0.0, False))
    torch.library.opcheck(ops.input_gradient, (plain, plain, *frozen, total, count, 0.0, False))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_compiler_takes_it_whole(device, inplace, backend):
    activation = "leaky_relu" if inplace else "relu"
    eager = nn.Sequential(nn.Conv2d(3, 4, 3), SyncBatchNorm(4, activation=activation, inplace=inplace)).to(device)
    original, x = copy.deepcopy(eager), torch.randn(2, 3, 8, 8, device=device)
    compiled = torch.compile(original, fullgraph=True, backend=backend)
    for training in (True, True, False):
        eager.train(training), original.train(training)
        outputs = [network(x) for network in (eager, compiled)]
        for y in outputs:
            y.square().sum().backward()
        torch.testing.assert_close(*outputs)
    for a, b in zip(eager.parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dict(eager.state_dict()), dict(original.state_dict()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_records_it():
    network = nn.Sequential(SyncBatchNorm(4, activation="relu"), SyncBatchNorm(4)).cuda()
    original, x = copy.deepcopy(network), torch.randn(2, 4, 8, 8, device="cuda", requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(network, (x,))
    y, expected = graphed(x), original(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_keeps_its_statistics_in_it(dtype):
    norm = SyncBatchNorm(3).to(dtype)
    x = (2 + torch.randn(4, 3, 20)).to(dtype)
    norm(x).sum().backward()
    assert norm.running_mean.dtype == norm.weight.grad.dtype == dtype
    torch.testing.assert_close(norm.running_mean.float(), 0.1 * x.float().mean((0, 2)), atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("case", [case for case in CASES if case.dtype in (torch.float32, torch.float64)], ids=str)
def test_the_formulas_for_machines_without_a_compiler_are_the_kernels(case):
    x, grad = (tensor.to(case.dtype) for tensor in batch(case.dtype))
    slope = {"none": 1.0, "relu": 0.0, "leaky_relu": 0.2}[case.activation]
    weight, bias = torch.linspace(-1.5, 1.2, CHANNELS).to(case.dtype), torch.linspace(0.5, -1, CHANNELS).to(case.dtype)
    kept = []
    for source in (torch.ops.sync_bn, formulas):
        row = source.statistics(x)
        rows = torch.stack([row, source.statistics(x[:3]), source.statistics(x[:0])])
        running = [torch.full((CHANNELS,), 0.5), torch.full((CHANNELS,), 2.0)]
        mean, invstd, count = source.finish(rows, 1e-5, *running, 0.1, None)
        source.finish(rows, 1e-5, *running, None, torch.tensor(3))
        vectors = (weight, bias, mean, invstd)
        y = source.normalise(x, *vectors, count, slope, "")
        saved = y if case.inplace else x
        total = source.sums(grad, saved, *vectors, slope, case.inplace)
        gradients = [
            source.input_gradient(grad, saved, *vectors, sums, count if sums is not None else None, slope, case.inplace)
            for sums in (total, None)
        ]
        overwritten = x.clone()
        source.normalise_(overwritten, *vectors, slope)
        kept.append([row, mean, invstd, count, *running, y, total, *gradients, overwritten])
    for found, expected in zip(*kept, strict=True):
        assert relative_error(found, expected) < TOLERANCES[case.dtype]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_without_the_extension_pytorchs_layers_serve(monkeypatch, activation):
    monkeypatch.setattr(sync_bn_module, "COMPILED", frozenset())
    case = Case(torch.float32, channels_last=False, activation=activation, inplace=False)
    found, expected = run_ours(case, *batch(torch.float32)), run_reference(case)
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-5, name


@pytest.mark.parametrize(
    "options, words",
    [
        ({"activation": "gelu"}, "there is no activation 'gelu': choose none, relu, leaky_relu"),
        ({"activation": "relu", "inplace": True}, "inplace=True cannot undo relu"),
        ({"activation": "leaky_relu", "inplace": True, "slope": 0.0}, "a positive slope"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        SyncBatchNorm(4, **options)


def test_unfit_inputs_are_refused():
    with pytest.raises(ValueError, match="more than one value a channel"):
        SyncBatchNorm(4)(torch.ones(1, 4, 1, 1))
    with pytest.raises(ValueError, match="got 1 x 3 x 2 x 2"):
        SyncBatchNorm(4)(torch.ones(1, 3, 2, 2))
    with pytest.raises(RuntimeError, match="expected floating-point numbers"):
        SyncBatchNorm(4)(torch.ones(2, 4, 2, dtype=torch.long))
