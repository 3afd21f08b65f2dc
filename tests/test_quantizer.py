"""The learned codebook: against brute force and a plain implementation of its moving average, and on two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import Tensor

from stages.vqvae.nearest import nearest
from stages.vqvae.quantizer import VectorQuantizer, rotate
from stages.vqvae.settings import CodebookSettings
from tests import spawn
from tests.toy_codebook import followed

EUCLIDEAN = CodebookSettings(metric="euclidean")
STATISTICS = ("codebook", "ema_counts", "ema_sums")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state(quantizer: VectorQuantizer) -> dict[str, Tensor]:
    return {name: getattr(quantizer, name).clone() for name in STATISTICS}


def step(quantizer: VectorQuantizer, vectors: Tensor, *, revive: bool = True, seed: int = 0) -> Tensor:
    codes = nearest(vectors, quantizer.codebook)
    quantizer.count(vectors, codes)
    quantizer.follow(seed, revive=revive)
    return codes


@pytest.mark.parametrize(("n", "d", "k"), [(1, 8, 64), (5000, 8, 512), (4099, 64, 512), (300, 3, 9000), (7, 2, 1)])
def test_codes_are_the_nearest_rows(n: int, d: int, k: int) -> None:
    vectors, codebook = 3 * drawn(n, d), drawn(k, d, seed=1)

    codes = nearest(vectors, codebook)

    distances = torch.cdist(vectors.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    two, best = distances.topk(min(2, k), dim=1, largest=False)
    clear = two[:, -1] - two[:, 0] > 1e-5 if k > 1 else torch.ones(n, dtype=torch.bool)
    assert clear.double().mean() > 0.99
    assert torch.equal(codes[clear], best[clear, 0])


def test_of_equal_rows_the_first_is_taken() -> None:
    row = drawn(1, 8)

    assert nearest(row.repeat(40, 1), row.repeat(100, 1)).tolist() == [0] * 40


def test_autocast_does_not_change_codes() -> None:
    vectors, codebook = drawn(500, 16), drawn(256, 16, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = nearest(vectors, codebook)

    assert torch.equal(codes, nearest(vectors, codebook))


def test_rows_are_the_moving_average_of_what_they_were_nearest_to() -> None:
    quantizer = VectorQuantizer(8, 3, CodebookSettings(metric="euclidean", decay=0.9))
    rows = quantizer.codebook.double().tolist()
    counts, sums = [0.0] * 8, [[0.0] * 3 for _ in range(8)]
    for number in range(5):
        vectors = drawn(40, 3, seed=number)
        seen, total = [0.0] * 8, [[0.0] * 3 for _ in range(8)]
        for vector in vectors.double().tolist():
            code = min(range(8), key=lambda k: sum((a - b) ** 2 for a, b in zip(vector, rows[k], strict=True)))
            seen[code] += 1
            total[code] = [a + b for a, b in zip(total[code], vector, strict=True)]
        for k in range(8):
            counts[k] = 0.9 * counts[k] + 0.1 * seen[k]
            sums[k] = [0.9 * a + 0.1 * b for a, b in zip(sums[k], total[k], strict=True)]
            if counts[k] > 0:
                rows[k] = [a / counts[k] for a in sums[k]]
        step(quantizer, vectors, revive=False)

    torch.testing.assert_close(quantizer.codebook.double(), torch.tensor(rows).double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantizer.ema_counts.double(), torch.tensor(counts).double(), rtol=1e-5, atol=1e-6)


def test_cosine_keeps_rows_and_latents_on_the_sphere() -> None:
    quantizer = VectorQuantizer(32, 8).train()
    for number in range(3):
        quantized = quantizer(5 * drawn(2, 8, 6, 6, seed=number))
        quantizer.follow(number)

    torch.testing.assert_close(quantizer.codebook.square().mean(1), torch.ones(32))
    torch.testing.assert_close(quantized.latents.square().mean(1), torch.ones(2, 6, 6))


class WithoutReset(VectorQuantizer):
    """Revives rows, but leaves their old sums and counts: the mistake the quantizer avoids."""

    def _revive(self, drawn: Tensor, threshold: Tensor, seed: int) -> None:
        counts, sums = self.ema_counts.clone(), self.ema_sums.clone()
        super()._revive(drawn, threshold, seed)
        self.ema_counts.copy_(counts)
        self.ema_sums.copy_(sums)


def usage_after_a_move(kind: type[VectorQuantizer]) -> float:
    """All rows were in use far away when the data moved to where only one of them is: mean use of the last steps."""
    quantizer = kind(64, 4, EUCLIDEAN)
    quantizer.codebook.copy_(100 + drawn(64, 4))
    quantizer.codebook[0] = 0
    quantizer.ema_counts.fill_(0.7)
    quantizer.ema_sums.copy_(quantizer.codebook * 0.7)
    shares = []
    for number in range(30):
        codes = step(quantizer, drawn(1024, 4, seed=number), seed=number)
        shares.append(len(codes.unique()) / 64)
    return sum(shares[-15:]) / 15


def test_dead_rows_come_alive_and_stay_alive() -> None:
    assert usage_after_a_move(VectorQuantizer) >= 0.97
    assert usage_after_a_move(WithoutReset) < 0.5


def test_a_fresh_codebook_is_used_whole_after_a_few_steps() -> None:
    quantizer = VectorQuantizer(64, 8)
    blobs = quantizer.place(drawn(16, 8, seed=9))
    for number in range(20):
        vectors = quantizer.place(blobs[torch.arange(2048) % 16] + 0.2 * drawn(2048, 8, seed=number))
        codes = step(quantizer, vectors, seed=number)

    assert len(codes.unique()) >= 62


def test_without_revival_dead_rows_stay_where_they_are() -> None:
    quantizer = VectorQuantizer(64, 4, EUCLIDEAN)
    quantizer.codebook[10:] += 1000
    far = quantizer.codebook[10:].clone()

    step(quantizer, drawn(256, 4), revive=False)

    assert torch.equal(quantizer.codebook[10:], far)


def test_statistics_do_not_depend_on_the_micro_batch() -> None:
    batch, states = drawn(12, 8, 4, 4), []
    for parts in (1, 3, 12):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(32, 8).train()
        for part in batch.chunk(parts):
            quantizer(part)
        quantizer.follow(0, revive=False)
        states.append(state(quantizer))

    for other in states[1:]:
        for name in STATISTICS:
            assert torch.equal(states[0][name], other[name]), name


def test_dead_rows_are_drawn_from_all_micro_batches() -> None:
    batch = drawn(12, 8, 4, 4)
    shares = []
    for parts in (1, 3, 12):
        quantizer = VectorQuantizer(64, 8).train()
        for part in batch.chunk(parts):
            quantizer(part)
        quantizer.follow(0)
        assert int(quantizer.revived) == 64
        rows = quantizer.codebook
        vectors = quantizer.place(rearrange(batch, "b d h w -> b (h w) d"))
        of_picture = torch.cdist(rows, rearrange(vectors, "b n d -> (b n) d")).argmin(dim=1) // 16
        shares.append(torch.bincount(of_picture, minlength=12))
        assert len(rows.unique(dim=0)) > 40
    for share in shares:
        assert (share > 0).sum() >= 9 and share.max() <= 16, "some pictures give no rows, or one gives most"
    quantizer(batch)
    quantizer.follow(1, revive=False)
    assert int(quantizer.revived) == 0, "what an earlier step revived is logged again"


def test_nothing_is_counted_in_eval_mode_and_forget_drops_what_was() -> None:
    quantizer = VectorQuantizer(32, 8)
    quantizer.eval()(drawn(2, 8, 4, 4))
    assert not quantizer.pending.any()

    quantizer.train()(drawn(2, 8, 4, 4))
    assert quantizer.pending.any()
    quantizer.forget()
    assert not quantizer.pending.any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_step_with_anything_not_finite_changes_nothing(metric: str, poison: float) -> None:
    quantizer = VectorQuantizer(32, 8, CodebookSettings(metric=metric))
    for number in range(3):
        step(quantizer, quantizer.place(drawn(256, 8, seed=number)))
    before = state(quantizer)

    vectors = quantizer.place(drawn(256, 8, seed=9))
    vectors[17, 3] = poison
    step(quantizer, vectors)

    for name, value in state(quantizer).items():
        assert torch.equal(value, before[name]), name
    step(quantizer, quantizer.place(drawn(256, 8, seed=9)))  # and the next one moves it again
    assert not torch.equal(quantizer.codebook, before["codebook"]) and quantizer.codebook.isfinite().all()


def test_the_straight_through_gradient_is_the_identity() -> None:
    features = drawn(2, 8, 3, 3).requires_grad_()
    quantized = VectorQuantizer(32, 8, EUCLIDEAN)(features)
    gradient = drawn(2, 8, 3, 3, seed=1)

    quantized.latents.backward(gradient)

    assert torch.equal(features.grad, gradient)


def test_the_commitment_loss_pulls_features_to_their_rows_and_never_the_codebook() -> None:
    features = drawn(2, 8, 3, 3).requires_grad_()
    quantizer = VectorQuantizer(32, 8, EUCLIDEAN)
    quantized = quantizer(features)

    quantized.loss.backward()

    expected = 2 * (features - quantizer.lookup(quantized.codes)).detach() / features.numel()
    torch.testing.assert_close(features.grad, expected)
    assert not quantizer.codebook.requires_grad


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_the_decoder_gets_the_rows_the_codes_name(metric: str, gradient: str) -> None:
    quantizer = VectorQuantizer(32, 8, CodebookSettings(metric=metric, gradient=gradient)).train()
    quantized = quantizer(drawn(2, 8, 3, 5))

    torch.testing.assert_close(quantized.latents, quantizer.lookup(quantized.codes), rtol=1e-5, atol=1e-5)
    rows = quantized.before.permute(0, 2, 3, 1).reshape(-1, 8)
    assert torch.equal(quantized.codes.flatten(), nearest(rows, quantizer.codebook))


def test_the_rotation_gives_the_rows_and_turns_gradients_with_them() -> None:
    vectors, rows = drawn(50, 8).requires_grad_(), 2 * drawn(50, 8, seed=1)
    gradient = drawn(50, 8, seed=2)

    turned = rotate(vectors, rows)
    turned.backward(gradient)

    torch.testing.assert_close(turned, rows, rtol=1e-5, atol=1e-5)
    scale = rows.norm(dim=1) / vectors.detach().norm(dim=1)
    torch.testing.assert_close(vectors.grad.norm(dim=1), scale * gradient.norm(dim=1), rtol=1e-4, atol=1e-5)
    along = (vectors.grad * vectors.detach()).sum(1)  # an orthogonal map keeps angles: to v as to q
    torch.testing.assert_close(along, (gradient * rows).sum(1), rtol=1e-4, atol=1e-4)


def test_the_rotation_of_opposite_vectors_is_finite() -> None:
    rows = drawn(5, 8)

    torch.testing.assert_close(rotate(-2 * rows, rows), rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_codebook_stays_fp32_when_the_model_is_cast(dtype: torch.dtype) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), VectorQuantizer(32, 8))
    before = model[1].codebook.clone()

    model.to(dtype)

    assert model[0].weight.dtype == dtype
    assert all(getattr(model[1], name).dtype == torch.float32 for name in (*STATISTICS, "pending"))
    assert torch.equal(model[1].codebook, before)
    assert model(drawn(2, 3, 4, 4).to(dtype)).latents.dtype == torch.float32


def test_impossible_settings_say_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"metric is one of cosine, euclidean; got 'l2'"):
        CodebookSettings(metric="l2")
    with pytest.raises(ValueError, match=r"gradient is one of straight_through, rotation"):
        CodebookSettings(gradient="gumbel")
    with pytest.raises(ValueError, match=r"decay is in \(0, 1\)"):
        CodebookSettings(decay=1.0)


def test_two_processes_end_with_the_codebook_of_one(tmp_path: Path) -> None:
    spawn.run("tests.toy_codebook", [str(tmp_path)], world=2)

    alone = followed(revive=False)
    for revive in (False, True):
        first, second = (torch.load(tmp_path / f"{revive}-rank{rank}.pt") for rank in range(2))
        assert set(first) >= set(STATISTICS)
        assert all(torch.equal(first[name], second[name]) for name in first)
    first = torch.load(tmp_path / "False-rank0.pt")
    for name in STATISTICS:
        torch.testing.assert_close(first[name], alone[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(alone["codebook"], torch.load(tmp_path / "True-rank0.pt")["codebook"])
