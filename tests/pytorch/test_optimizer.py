"""`Offload`: what PyTorch's users expect of an optimizer, beside PyTorch's own."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import adamoffload as ao

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'adamoffload[torch]'")
from adamoffload_torch import Offload  # noqa: E402
from adamoffload_torch.layout import Layout  # noqa: E402
from adamoffload_torch.state import packed, unpacked  # noqa: E402

from train_gpt import GPT  # noqa: E402

RULE = ao.rules.AdamW(1e-2, weight_decay=0.1)
STRATEGIES = ["resident", "adam-offload", "zero-offload", "state-shuttle", "megatron-hybrid"]


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 10), torch.nn.LayerNorm(10), torch.nn.Tanh(), torch.nn.Linear(10, 3)
    )


def loss_of(model: Any, seed: int) -> Any:
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
    return model(x).square().mean()


def steps(model: Any, optimizer: Any, seeds: Any, scheduler: Any = None) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step(*([0.5] if "Plateau" in type(scheduler).__name__ else []))


def weights(model: Any) -> list[Any]:
    return [p.detach().clone() for p in model.parameters()]


def equal(left: Any, right: Any) -> bool:
    return all(torch.equal(p, q) for p, q in zip(weights(left), weights(right), strict=True))


def close(left: Any, right: Any) -> bool:
    pairs = zip(weights(left), weights(right), strict=True)
    return all(torch.allclose(p, q, rtol=1e-5, atol=1e-6) for p, q in pairs)


def ours(model: Any, rule: ao.Rule = RULE, **options: Any) -> Any:
    return Offload(model.parameters(), rule, **options)


def theirs(model: Any, **options: Any) -> Any:
    return torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1, **options)


# -- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["resident", "zero-offload"])
def test_each_step_of_a_gpt_is_that_of_pytorch_to_4_ulp(strategy: str) -> None:
    torch.manual_seed(0)
    model = GPT(letters=11, context=8, width=16, depth=2, heads=2)
    mine = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    offload = Offload(mine.parameters(), ao.rules.AdamW(3e-3, weight_decay=0.1), strategy=strategy)
    text = torch.randint(11, (100, 4, 9), generator=torch.Generator().manual_seed(1))
    worst = 0.0
    for batch in text:
        optimizer.zero_grad()
        logits = model(batch[:, :-1]).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten()).backward()
        before = weights(model)
        for p, q in zip(model.parameters(), mine.parameters(), strict=True):
            q.grad = p.grad.clone()
        offload.step()
        optimizer.step()
        lr = np.float32(3e-3)
        for w, p, q in zip(before, model.parameters(), mine.parameters(), strict=True):
            scale = torch.maximum(w.abs(), p.detach().abs()).clamp(min=float(lr)).numpy()
            distance = np.abs((p.detach().double() - q.detach().double()).numpy())
            worst = max(worst, float(np.max(distance / np.spacing(scale))))
        copy_state(optimizer, offload)  # the next step begins where this one of PyTorch's ended
    assert 0 < worst <= 4


def copy_state(optimizer: Any, offload: Any) -> None:
    core = offload.core
    source = [(p, optimizer.state[p]) for g in optimizer.param_groups for p in g["params"]]
    for (p, state), parameter in zip(source, core.parameters, strict=True):
        parameter.data.tensor.copy_(p.detach())
        for slot, name in (("m", "exp_avg"), ("v", "exp_avg_sq")):
            target = core.state[slot][parameter.name]
            value = state[name].numpy()
            if isinstance(target, np.ndarray):
                target[...] = value
            else:
                target.tensor.copy_(state[name])
    offload.reload_master()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_the_same_bits(strategy: str) -> None:
    left, right = net(), net()
    steps(left, ours(left, strategy="resident"), range(5))
    steps(right, ours(right, strategy=strategy, chunk_bytes=128), range(5))
    assert equal(left, right)


@pytest.mark.parametrize(
    ("rule", "name", "options"),
    [
        (ao.rules.SGD(0.1, momentum=0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
        (ao.rules.Adagrad(0.1), "Adagrad", {"lr": 0.1}),
        (ao.rules.AMSGrad(0.01), "AdamW", {"lr": 0.01, "amsgrad": True}),
    ],
)
def test_other_rules_train_too(rule: ao.Rule, name: str, options: dict[str, Any]) -> None:
    left, right = net(), net()
    steps(left, getattr(torch.optim, name)(left.parameters(), **options), range(10))
    steps(right, ours(right, rule), range(10))
    assert close(left, right)


# -- live groups ----------------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4], 0.5),
    "ConstantLR": lambda o: torch.optim.lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 5),
    "ExponentialLR": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.7),
    "PolynomialLR": lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 8),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8),
    "WarmRestarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: torch.optim.lr_scheduler.MultiplicativeLR(o, lambda _: 0.9),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 1e-3, 1e-2, 2, cycle_momentum=True),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=8),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [SCHEDULERS["LinearLR"](o), SCHEDULERS["StepLR"](o)], [3]
    ),
    "ChainedScheduler": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
        [SCHEDULERS["LinearLR"](o), SCHEDULERS["ExponentialLR"](o)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 1e-3, anneal_epochs=4),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_works(name: str) -> None:
    left, right = net(), net()
    one, other = theirs(left), ours(right)
    steps(left, one, range(8), SCHEDULERS[name](one))
    steps(right, other, range(8), SCHEDULERS[name](other))
    assert one.param_groups[0]["lr"] == other.param_groups[0]["lr"]
    assert one.param_groups[0]["betas"] == other.param_groups[0]["betas"]
    assert close(left, right)


def test_momentum_is_cycled_where_the_rule_has_momentum() -> None:
    left, right = net(), net()
    one = torch.optim.SGD(left.parameters(), 0.1, momentum=0.9)
    other = ours(right, ao.rules.SGD(0.1, momentum=0.9))
    steps(left, one, range(7), SCHEDULERS["CyclicLR"](one))
    steps(right, other, range(7), SCHEDULERS["CyclicLR"](other))
    assert one.param_groups[0]["momentum"] == other.param_groups[0]["momentum"] != 0.9
    assert close(left, right)


def test_groups_have_numbers_of_their_own_and_they_are_live() -> None:
    left, right = net(), net()

    def groups(model: Any) -> list[dict[str, Any]]:
        first, *rest = model.parameters()
        return [
            {"params": [first], "lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.0},
            {"params": rest},
        ]

    one = torch.optim.AdamW(groups(left), 1e-2, weight_decay=0.1)
    other = Offload(groups(right), RULE)
    for optimizer, model in ((one, left), (other, right)):
        steps(model, optimizer, range(3))
        optimizer.param_groups[0]["lr"] = torch.tensor(0.03)
        optimizer.param_groups[1] |= {"betas": (0.8, 0.99), "weight_decay": 0.5, "eps": 1e-3}
        steps(model, optimizer, range(3, 6))
    assert close(left, right)


def test_a_group_can_be_added_later() -> None:
    left, right = net(), net()
    one = torch.optim.AdamW(left[0].parameters(), 1e-2, weight_decay=0.1)
    other = Offload(right[0].parameters(), RULE)
    for optimizer, model in ((one, left), (other, right)):
        steps(model, optimizer, range(2))
        optimizer.add_param_group({"params": model[3].parameters(), "lr": 0.1})
        steps(model, optimizer, range(2, 6))
    assert close(left, right)
    with pytest.raises(ValueError, match="more than one parameter group"):
        other.add_param_group({"params": right[3].parameters()})


# -- what a model may do --------------------------------------------------------------------------


def test_frozen_and_unused_parameters_are_left_alone() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    before = weights(model)
    unused = torch.nn.Parameter(torch.ones(3))
    optimizer = Offload([*model.parameters(), unused], RULE)
    steps(model, optimizer, range(3))
    assert torch.equal(model[0].weight, before[0])
    assert torch.equal(unused, torch.ones(3))
    assert not torch.equal(model[0].bias, before[1])
    assert "0" not in optimizer.core.state["m"]


@pytest.mark.parametrize("during_backward", [False, True])
def test_a_frozen_parameter_can_be_unfrozen(during_backward: bool) -> None:
    left, right = net(), net()
    one, other = theirs(left), ours(right, during_backward=during_backward)
    for optimizer, model in ((one, left), (other, right)):
        model[0].weight.requires_grad_(False)
        steps(model, optimizer, range(2))
        model[0].weight.requires_grad_(True)
        steps(model, optimizer, range(2, 5))
    assert close(left, right)


def test_tied_weights_are_moved_once() -> None:
    def tied() -> Any:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6))
        model[2].weight = model[0].weight
        return model

    left, right = tied(), tied()
    steps(left, theirs(left), range(4))
    steps(right, ours(right), range(4))
    assert close(left, right)


def test_channels_last_is_no_obstacle() -> None:
    def conv() -> Any:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Unflatten(1, (6, 1, 1)), torch.nn.Conv2d(6, 4, 3, padding=1)
        )
        return model.to(memory_format=torch.channels_last)

    left, right = conv(), conv()
    steps(left, theirs(left), range(4))
    optimizer = ours(right)
    steps(right, optimizer, range(4))
    assert close(left, right)
    state = optimizer.state_dict()["state"][0]
    assert state["m"].shape == right[1].weight.shape


def test_a_compiled_model_trains() -> None:
    left, right = net(), net()
    compiled = torch.compile(right, backend="aot_eager")
    steps(left, ours(left), range(3))
    steps(compiled, ours(right, during_backward=True), range(3))
    assert close(left, right)


def test_a_closure_is_called_with_gradients_on() -> None:
    left, right = net(), net()
    steps(left, theirs(left), range(2))
    optimizer = ours(right)
    for seed in range(2):

        def closure(seed: int = seed) -> Any:
            optimizer.zero_grad()
            loss = loss_of(right, seed)
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0
    assert close(left, right)


def test_gradients_may_be_cleared_in_place() -> None:
    left, right = net(), net()
    one, other = theirs(left), ours(right)
    for seed in range(3):
        for optimizer, model in ((one, left), (other, right)):
            optimizer.zero_grad(set_to_none=False)
            loss_of(model, seed).backward()
            optimizer.step()
    assert close(left, right)


def test_hooks_and_clipping_of_pytorch_work() -> None:
    left, right = net(), net()
    for optimizer, model in ((theirs(left), left), (ours(right), right)):
        called: list[str] = []

        def before(*_: Any, model: Any = model, called: list[str] = called) -> None:
            called.append("before")
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)

        def after(*_: Any, called: list[str] = called) -> None:
            called.append("after")

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
        steps(model, optimizer, range(2))
        assert called == ["before", "after"] * 2
    assert close(left, right)


def test_a_grad_scaler_scales_unscales_and_skips() -> None:
    left, right = net(), net()
    scales = []
    for optimizer, model in ((theirs(left), left), (ours(right), right)):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for seed in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, seed)).backward()
            if seed == 2:
                model[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [512.0, 512.0]
    assert close(left, right)


# -- accumulation, and gradients that leave during the backward pass ------------------------------


def test_gradients_that_pytorch_accumulates_make_one_step() -> None:
    left, right = net(), net()
    for optimizer, model in ((theirs(left), left), (ours(right), right)):
        for step in range(3):
            optimizer.zero_grad()
            for micro in range(2):
                (loss_of(model, 2 * step + micro) / 2).backward()
            optimizer.step()
    assert close(left, right)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_leave_during_the_backward_pass(accumulate: int) -> None:
    left, right = net(), net()
    for model, during in ((left, False), (right, True)):
        optimizer = ours(model, during_backward=during, accumulate=accumulate)
        for seed in range(6):
            loss_of(model, seed).backward()
            assert all((p.grad is None) == during for p in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
    assert equal(left, right)


# -- autograd and edited weights ------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_autograd_notices_that_weights_were_written(strategy: str) -> None:
    model = net()
    optimizer = ours(model, strategy=strategy)
    versions = [p._version for p in model.parameters()]
    late = loss_of(model, 0)
    loss_of(model, 1).backward()
    optimizer.step()
    assert all(p._version > v for p, v in zip(model.parameters(), versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


@pytest.mark.parametrize("during_backward", [False, True])
def test_weights_changed_beside_their_master_are_refused(during_backward: bool) -> None:
    model = net()
    optimizer = ours(model, strategy="zero-offload", during_backward=during_backward)
    steps(model, optimizer, range(2))
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.raises(RuntimeError, match=r"'0' was changed since .* call optimizer.rel"):
        steps(model, optimizer, [2])
    optimizer.reload_master()
    steps(model, optimizer, [2])
    assert model[0].weight.abs().max() < 0.1


def test_without_a_master_weights_may_be_changed() -> None:
    model = net()
    optimizer = ours(model, strategy="adam-offload")
    steps(model, optimizer, range(2))
    model.load_state_dict(net(1).state_dict())
    steps(model, optimizer, range(2))


# -- state ----------------------------------------------------------------------------------------


def saved(optimizer: Any) -> Any:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("during_backward", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_goes_on_from_its_state_bitwise(strategy: str, during_backward: bool) -> None:
    left, right = net(), net(1)
    optimizer = ours(left, strategy="zero-offload", during_backward=during_backward)
    steps(left, optimizer, range(3))
    optimizer.param_groups[0] |= {"lr": 0.5, "betas": (0.5, 0.9)}
    steps(left, optimizer, [3])
    right.load_state_dict(left.state_dict())
    resumed = ours(right, strategy=strategy, during_backward=during_backward)
    resumed.load_state_dict(saved(optimizer))
    assert resumed.param_groups[0]["betas"] == (0.5, 0.9)
    steps(left, optimizer, range(4, 7))
    steps(right, resumed, range(4, 7))
    assert equal(left, right)
    assert saved(resumed)["state"][0]["step"] == 7


def test_a_slot_keeps_its_type_and_its_order_of_axes() -> None:
    pytest.importorskip("ml_dtypes", reason="NumPy has bfloat16 from ml_dtypes")
    weight = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    layout = Layout.of("w", weight)
    m = torch.randn(2, 3, 4, 4).to(torch.bfloat16)
    arrays = unpacked({"step": 3, "m": m}, ["m", "master"], layout, "w")
    assert arrays["m"].shape == (2, 4, 4, 3)
    assert arrays["m"].dtype.name == "bfloat16"
    assert torch.equal(packed(arrays, layout, 3)["m"], m)


def test_the_state_knows_who_was_updated_how_often() -> None:
    model = net()
    optimizer = ours(model)
    steps(model, optimizer, [0])
    loss_of(model, 1).backward()
    model[0].weight.grad = None
    optimizer.step()
    state = saved(optimizer)
    assert [state["state"][i]["step"] for i in range(2)] == [1, 2]
    other = ours(net())
    other.load_state_dict(state)
    assert saved(other)["state"][0]["step"] == 1


def test_a_state_before_the_first_step_is_one() -> None:
    model = net()
    optimizer = ours(model)
    state = saved(optimizer)
    steps(model, optimizer, range(2))
    optimizer.load_state_dict(state)
    assert optimizer.core.global_step == 0
    assert not optimizer.core.state["m"]["0"].any()


def test_a_state_of_another_optimizer_is_refused() -> None:
    model = net()
    optimizer = ours(model)
    adam = theirs(model)
    steps(model, adam, [0])
    with pytest.raises(ValueError, match="lacks 'm', 'v'"):
        optimizer.load_state_dict(adam.state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        Offload([{"params": [p]} for p in model.parameters()], RULE).load_state_dict(
            saved(optimizer)
        )


# -- refused --------------------------------------------------------------------------------------


def parameter(**options: Any) -> Any:
    return torch.nn.Parameter(torch.ones(4, **options))


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    with pytest.raises(TypeError, match="rule must be one of adamoffload"):
        Offload([parameter()], torch.optim.AdamW)
    with pytest.raises(TypeError, match="learning rate must be a number; use a scheduler"):
        Offload([parameter()], ao.rules.AdamW(ao.CosineDecayLR(0.0, 0.1, 5)))
    with pytest.raises(ValueError, match="all parameters must be on one device"):
        Offload([parameter(), parameter(device="meta")], RULE).core  # noqa: B018
    with pytest.raises(TypeError, match=r"'0' must be float32.*, got complex64"):
        Offload([parameter(dtype=torch.complex64)], RULE).core  # noqa: B018
    with pytest.raises(ValueError, match="no parameter needs a gradient"):
        Offload([torch.zeros(3)], RULE).core  # noqa: B018
    gapped = torch.nn.Parameter(torch.ones(4, 4)[:, :2])
    with pytest.raises(ValueError, match="the memory of parameter '0' has gaps"):
        Offload([gapped], RULE).core  # noqa: B018


def test_a_sparse_gradient_is_refused_in_a_sentence() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = Offload(table.parameters(), RULE)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse, and only dense ones"):
        optimizer.step()


# -- seen -----------------------------------------------------------------------------------------


def test_ledger_and_probe_see_it_by_the_models_names() -> None:
    model, ledger, probe = net(), ao.Ledger(), ao.Probe()
    optimizer = Offload(
        model.named_parameters(), RULE, strategy="adam-offload", ledger=ledger, probe=probe
    )
    steps(model, optimizer, range(3))
    assert probe.names[0] == "0.weight"
    size = sum(p.numel() for p in model.parameters())
    assert ledger.bytes("d2h") == ledger.bytes("h2d") == 3 * 4 * size
    assert optimizer.core.bytes_per_step["d2h"] == 4 * size


def test_what_a_disk_keeps_is_removed_when_it_is_closed(tmp_path: Any) -> None:
    model = net()
    optimizer = ours(model, strategy="disk", directory=tmp_path)
    steps(model, optimizer, range(2))
    assert any(tmp_path.iterdir())
    optimizer.close()
    assert not any(tmp_path.iterdir())
