import numpy as np
import numpy_decoder
import pytest
import torch
from lively_model import lively_model, some_tokens
from torch import nn

from deltaw.errors import DeltawError
from deltaw.models import SITES, Transformer, activations, layer_count, mlp, tap
from deltaw.models.architectures import FAMILIES, Architecture, Map
from deltaw.models.batch import Batch, Role


@pytest.fixture
def model() -> Transformer:
    return lively_model()


@pytest.fixture
def tokens() -> torch.Tensor:
    return some_tokens()


def batch_of(tokens: torch.Tensor, positions: list[int]) -> Batch:
    roles = torch.full(tokens.shape, int(Role.TEXT), dtype=torch.uint8)
    roles[torch.arange(len(tokens)), torch.tensor(positions)] = int(Role.LAST_PROMPT)
    return Batch(tokens, torch.zeros(tokens.shape), roles)


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_every_site_equals_the_numpy_decoder(model: Transformer, tokens: torch.Tensor) -> None:
    _, expected = numpy_decoder.forward(model, tokens)
    with tap(model, SITES, [0, 1, 2]) as recorded:
        model(tokens)
    assert set(recorded) == set(expected)
    for place, tensor in recorded.items():
        assert not tensor.requires_grad
        np.testing.assert_allclose(tensor.numpy(), expected[place], atol=1e-4, err_msg=str(place))


@pytest.mark.parametrize("batch_size", [2, 256])
def test_activations_are_those_of_the_role(model: Transformer, tokens: torch.Tensor, batch_size: int) -> None:
    positions = [3, 10, 0, 5, 5, 7, 1, 9, 4]
    _, expected = numpy_decoder.forward(model, tokens)
    found = activations(model, batch_of(tokens, positions), SITES, [2, 0], batch_size=batch_size)
    assert set(found) == {(layer, site) for layer in (0, 2) for site in SITES}
    for place, tensor in found.items():
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor.numpy(), expected[place][np.arange(9), positions], atol=1e-4)
    assert hooks_on(model) == 0


def test_activations_of_embeddings_at_given_positions(model: Transformer, tokens: torch.Tensor) -> None:
    batch, places = batch_of(torch.zeros_like(tokens), [3, 10, 0, 5, 5, 7, 1, 9, 4]), (SITES, [2, 0])
    vectors = model.embed(tokens).detach()
    found = activations(model, batch, *places, batch_size=4, embeddings=vectors)
    expected = activations(model, batch_of(tokens, [3, 10, 0, 5, 5, 7, 1, 9, 4]), *places)
    assert all(torch.allclose(found[place], expected[place], atol=1e-5) for place in expected)
    positions = torch.randint(0, 16, tokens.shape, generator=torch.Generator().manual_seed(0))
    moved = vectors + model.position.weight[positions].detach() - model.position.weight[:11].detach()
    found = activations(model, batch, *places, batch_size=4, embeddings=vectors, positions=positions)
    expected = activations(model, batch, *places, embeddings=moved)
    assert all(torch.allclose(found[place], expected[place], atol=1e-4) for place in expected)


def test_tapping_changes_nothing_and_leaves_nothing(model: Transformer, tokens: torch.Tensor) -> None:
    plain = model(tokens)
    with tap(model, SITES, [0, 1, 2]):
        assert torch.equal(model(tokens), plain)
        assert hooks_on(model) == 15
    assert hooks_on(model) == 0
    with pytest.raises(RuntimeError), tap(model, ["mlp_in"], [0]):
        raise RuntimeError
    assert hooks_on(model) == 0


@pytest.mark.parametrize(
    ("sites", "layers", "message"),
    [
        (["mlp_mid"], [0], "'mlp_mid'.*mlp_in, mlp_pre"),
        (["mlp_in"], [3], "no layer 3.*0 to 2"),
        (["mlp_in"], [-1], "-1"),
    ],
)
def test_what_does_not_exist_is_named(
    model: Transformer, tokens: torch.Tensor, sites: list[str], layers: list[int], message: str
) -> None:
    with pytest.raises(DeltawError, match=message):
        activations(model, batch_of(tokens, [3] * 9), sites, layers)
    assert hooks_on(model) == 0


def test_a_role_with_many_positions_is_refused(model: Transformer, tokens: torch.Tensor) -> None:
    with pytest.raises(DeltawError, match="TEXT"):
        activations(model, batch_of(tokens, [3] * 9), ["mlp_in"], [0], role=Role.TEXT)


def test_mlp_weights_are_the_map_from_mlp_in_to_mlp_out(model: Transformer, tokens: torch.Tensor) -> None:
    _, sites = numpy_decoder.forward(model, tokens)
    for source in (model, model.state_dict()):
        weights = mlp(source, 1)
        assert weights.w_in.shape == (48, 12)
        assert weights.w_out.shape == (12, 48)
        assert not weights.w_in.requires_grad
        output = weights.double()(torch.from_numpy(sites[1, "mlp_in"]))
        np.testing.assert_allclose(output.numpy(), sites[1, "mlp_out"], atol=1e-12)
    assert layer_count(model) == 3


def test_mlp_of_what_does_not_exist(model: Transformer) -> None:
    with pytest.raises(DeltawError, match="layers are 0 to 2"):
        mlp(model, 3)
    with pytest.raises(DeltawError, match="deltaw"):
        mlp({"some.weight": torch.zeros(2, 2)}, 0)


def test_a_family_is_added_by_its_names(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoredInOut(Architecture):
        name, label = "other", "Other"
        block = "h.{layer}"
        mlp_in = (Map("mlp.c_fc"),)
        mlp_out = Map("mlp.c_proj")
        transposed = True
        activation = staticmethod(torch.relu)

    monkeypatch.setitem(FAMILIES, "other", StoredInOut())
    ours = mlp(model, 1)
    state = {
        "h.0.mlp.c_fc.weight": ours.w_in.T,
        "h.0.mlp.c_fc.bias": ours.b_in,
        "h.0.mlp.c_proj.weight": ours.w_out.T,
        "xh.1.mlp.c_fc.weight": ours.w_in,
    }
    theirs = mlp(state, 0)
    assert torch.equal(theirs.w_in, ours.w_in)
    assert torch.equal(theirs.w_out, ours.w_out)
    assert torch.equal(theirs.b_out, torch.zeros(12)), "a map without bias has a bias of 0"
    assert theirs.activation is torch.relu
    assert layer_count(state) == 1
    assert mlp(model, 1).activation is not torch.relu
