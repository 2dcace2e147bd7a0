"""The kernels find what the plain way finds: in Triton's interpreter, or on a GPU where there is one. And they compile.

The interpreter must be chosen before Triton is imported, so they run in a process of their own: this file as a program.
"""

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from tightrein.engines.language.passes import vocabulary
from tightrein.engines.language.passes.vocabulary import Block, Form, OutputLayer, Plain, Pull, Read, read_by

FORMS = {
    "plain": {},
    "scaled": {"scale": 0.25},
    "capped": {"softcap": 1.5},
    "scaled and capped": {"scale": 3.0, "softcap": 2.0},
}
SHARPNESS = {"one": (1.0,), "three": (0.5, 1.0, 2.0)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [", ".join(case) for case in itertools.product(FORMS, ("bias", "no bias"), SHARPNESS, DTYPES)]
N, H, V, K = 3, 4, 61, 3
WIDTH, TILE = 24, 16  # two tiles in each block but the last, both ragged
GPUS = (75, 100)  # compute capabilities, times ten

with_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def main(task):
    print(json.dumps({"agree": agree, "compile": compiled}[task]()))


def in_a_process(task):
    environment = dict(os.environ) | ({"TRITON_INTERPRET": "1"} if task == "agree" and device() == "cpu" else {})
    done = subprocess.run([sys.executable, __file__, task], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def differences():
    return in_a_process("agree")


@pytest.fixture(scope="module")
def spills():
    return in_a_process("compile")


@with_triton
@pytest.mark.parametrize("case", CASES)
def test_values_are_exact_to_rounding_and_so_are_gradients(case, differences):
    found, rounding = differences[case], 2.0**-8 if "bfloat16" in case else 1e-5
    assert set(found) == {"picked", "normaliser", "entropy", "states", "weight"} | (
        {"bias"} if "no bias" not in case else set()
    )
    for name, error in found.items():
        assert error < (rounding if name in ("states", "weight", "bias") else 1e-5), (name, found)


@with_triton
@pytest.mark.parametrize("special", ["no states", "nothing asked for", "huge logits", "a tensor of another layout"])
def test_they_do_what_the_plain_passes_do_at_the_edges(special, differences):
    assert differences[special] < 1e-5


@with_triton
def test_a_slope_in_bfloat16_is_the_slope_in_fewer_digits(differences):
    assert 0 < differences["narrow slope"] < 2.0**-7  # the interpreter cuts digits off; a GPU rounds


@with_triton
def test_the_trial_on_a_device_tells_right_from_wrong(differences):
    assert differences["trial"] == "none"
    assert differences["trial of wrong ones"].startswith("they find")


@with_triton
@pytest.mark.parametrize("gpu", GPUS)
def test_they_compile_for_gpus_and_spill_no_registers(gpu, spills):
    assert spills[str(gpu)] == dict.fromkeys(["finish", "take 1", "take 4", "slope 1", "slope 3", "narrow slope"], 0)


@with_triton
def test_a_device_on_which_they_do_not_run_takes_the_plain_way_and_says_so():
    with pytest.warns(UserWarning, match="plain way on cpu, which is slower: Triton's kernels do not run there"):
        assert vocabulary._kernels.__wrapped__(torch.device("cpu")) is None


def test_without_triton_there_are_none_and_no_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vocabulary._kernels.__wrapped__(torch.device("cuda")) is None


def test_on_a_cpu_the_plain_way_is_taken():
    assert type(vocabulary._passes(torch.zeros(1, 1))) is Plain


def test_products_of_narrow_factors_are_asked_for_in_full():
    factor, full = torch.empty(3, 3, dtype=torch.bfloat16, device="meta"), torch.empty(3, 3, device="meta")
    widened = vocabulary._widened(factor, torch.float32)
    assert torch.mm(factor, factor, **widened).dtype == torch.float32
    assert torch.addmm(full, factor, factor, out=full, **widened) is full
    assert vocabulary._widened(full, torch.float32) == {}


# The rest runs in the other process.


def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def made(form="plain", bias="bias", dtype="float32", n=N, k=K, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(device(), DTYPES[dtype]).requires_grad_()

    layer = OutputLayer(draw(V, H), draw(V) if bias == "bias" else None, **FORMS[form])
    index = torch.randint(V, (n, k), generator=generator).to(device())
    index[:, 1:2] = index[:, :1]  # a token asked for twice
    return draw(n, H), layer, index


def stored(states, layer, index, sharpness):
    """The plain way of all, in float64."""
    logits = layer.logits(states.double())
    logp = torch.log_softmax(logits * sharpness[0], -1)
    normaliser = torch.stack([(logits * beta).logsumexp(-1) for beta in sharpness], -1)
    return Read(sharpness[0] * logits.gather(-1, index), normaliser, -(logp.exp() * logp).sum(-1))


def with_gradients(read, leaves):
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(device()) for x in read]
    total = sum((w * x).sum() for w, x in zip(weights, read, strict=True))
    gradients = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    return {**read._asdict(), **gradients}


def difference(ours, theirs):
    """The largest, relative to the largest number."""
    largest = float(theirs.abs().max()) if theirs.numel() else 0.0
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    return float((ours.double() - theirs.double()).abs().max()) / largest if largest else 0.0


def both(passes, reference, states, layer, index, sharpness=(1.0,)):
    leaves = {"states": states, "weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})
    ours = with_gradients(read_by(passes, states, layer, index, sharpness), leaves)
    theirs = with_gradients(reference(states, layer, index, sharpness), leaves)
    return {name: difference(ours[name], theirs[name]) for name in theirs}


def agree():
    from tightrein.engines.language.passes import kernels

    found = {"trial": str(vocabulary._agree(kernels.Fused, torch.device(device()))).lower()}

    class Wrong(kernels.Fused):
        def finish(self, logits, bias, form):
            super().finish(logits, None, form)

    try:
        vocabulary._agree(Wrong, torch.device(device()))
    except RuntimeError as error:
        found["trial of wrong ones"] = str(error)
    kernels.TILE, vocabulary.NARROW, kernels.Fused.block = TILE, WIDTH, 1
    for case in CASES:
        form, bias, sharpness, dtype = case.split(", ")
        found[case] = both(kernels.Fused(), stored, *made(form, bias, dtype), SHARPNESS[sharpness])
    huge, layer, index = made()
    edges = {
        "no states": made(n=0),
        "nothing asked for": made(k=0),
        "huge logits": ((huge * 1e6).detach().requires_grad_(), layer, index),
        "a tensor of another layout": (huge, layer, index.T.contiguous().T),
    }

    def by_plain(*given):
        return read_by(Plain(), *given)

    for name, given in edges.items():
        found[name] = max(both(kernels.Fused(), by_plain, *given).values())
    return found | {"narrow slope": narrow_slope(kernels)}


def narrow_slope(kernels):
    """What the slope for products in bfloat16, which a CPU does not have, differs from the plain one."""
    states, layer, index = made("scaled and capped", "no bias")
    ours, theirs = Form(3.0, 2.0, (1.0, 2.0), kernels.Fused()), Form(3.0, 2.0, (1.0, 2.0), Plain())
    logits = layer.logits(states).detach()
    pulls = Read(*(torch.ones(shape, device=device()) for shape in ((N, K), (N, 2), (N,))))
    found = read_by(Plain(), states, layer, index, (1.0, 2.0))
    pull = Pull.of((1.0, 2.0), index, found.normaliser.detach(), found.entropy.detach(), pulls)
    wide = Block(0, V, logits.clone(), states, layer.weight)
    narrow = wide._replace(logits=logits.clone(), states=states.to(torch.bfloat16))
    slope = ours.passes.slope(narrow, pull, ours)
    assert slope.dtype == torch.bfloat16
    return difference(slope, theirs.passes.slope(wide, pull, theirs))


def compiled():
    """{compute capability: {kernel: bytes on the stack}}: what did not fit into registers."""
    from tightrein.engines.language.passes import kernels

    kinds = {"index": "*i64", "scale": "fp32", "cap": "fp32"} | dict.fromkeys(
        ("start", "width", "kinds", "asked"), "i32"
    )
    ones = {"kinds": 1, "asked": 1}  # a number 1 is known to the compiler, as the capitals are
    cases = {
        "finish": (kernels._finish, {"BIASED": True, "CAPPED": True}, kinds),
        "take 1": (kernels._take, {"KINDS": 1, "ASKED": 1} | ones, kinds),
        "take 4": (kernels._take, {"KINDS": 4, "ASKED": 64}, kinds),
        "slope 1": (kernels._slope, {"KINDS": 1, "CAPPED": False, "asked": 1, "width": 1}, kinds),
        "slope 3": (kernels._slope, {"KINDS": 3, "CAPPED": True}, kinds),
        "narrow slope": (kernels._slope, {"KINDS": 1, "CAPPED": False}, kinds | {"slope_at": "*bf16"}),
    }
    return {gpu: {name: stack(kernels, gpu, *case) for name, case in cases.items()} for gpu in GPUS}


def stack(kernels, gpu, kernel, known, kinds):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    known = known | {"TILE": kernels.TILE}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in known else kinds.get(name, "*fp32") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in known.items()})
    made = triton.compile(source, target=GPUTarget("cuda", gpu, 32), options={"num_warps": kernels.WARPS})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return max(int(size) for size in re.findall(r"STACK:(\d+)", shown))


if __name__ == "__main__":
    main(sys.argv[1])
