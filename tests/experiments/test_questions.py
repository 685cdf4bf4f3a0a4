"""Questions of readers: what is computed by hand here, and the program from end to end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import attention_facts, order, questions, sequences, tasks
from experiments.ledger import entries
from transformer_jax import functional, presets
from transformer_jax.errors import UserError
from transformer_jax.models.families import family_of
from transformer_jax.training.schedule import make_schedule

PROBED = ("base", "no positions")


def test_heads_compute_a_given_convolution():
    """Also before the start, and with a kernel that is not symmetric."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 9, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)
    expected = functional.convolution(x, kernel, jnp.zeros(5))
    found = attention_facts.heads_as_convolution(x, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_head_of_averages_is_no_convolution():
    table = attention_facts.heads_table()
    for _, exact, equal, best in table.rows:
        assert float(exact) < 1e-6 and equal >= best > 25
    # A kernel whose places have one map in common leaves nothing: its rank is 1.
    kernel = np.array([2.0, -1.0, 0.5])[:, None, None] * np.eye(4)
    assert attention_facts.one_head_leaves(kernel) == pytest.approx(0, abs=1e-12)
    # No map and weights that are tried leave less of a kernel at random than is said.
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 2, 2))
    least = attention_facts.one_head_leaves(kernel)
    for _ in range(200):
        weights = rng.normal(size=(3, 1, 1))
        best_map = np.sum(weights * kernel, axis=0) / np.sum(weights**2)
        left = np.sum((kernel - weights * best_map) ** 2) / np.sum(kernel**2)
        assert left >= least


def test_weights_of_large_keys_lose_entropy_and_gradient_unless_scaled():
    rows = {row[0]: row[1:] for row in attention_facts.scale_table().rows}
    scaled, unscaled = ([rows[d][i] for d in (4, 1024)] for i in (0, 2))
    assert scaled[1] == pytest.approx(scaled[0], rel=0.05)
    assert unscaled[1] < 0.2 < unscaled[0]
    # The slope: as large as ever where scaled, and nearly nothing where not.
    assert rows[1024][1] == pytest.approx(rows[4][1], rel=0.05)
    assert rows[1024][3] < 0.3 * rows[4][3]


def test_which_first_is_answered():
    found = order.which_first(np.random.default_rng(0), 200)
    assert found.shape == (200, order.LENGTH + 2)
    for row in found.tolist():
        before = row[: order.LENGTH]
        assert before.count(order.FIRST) == before.count(order.SECOND) == 1
        first = min((order.FIRST, order.SECOND), key=before.index)
        assert row[-2:] == [order.QUESTION, first]
    assert 0.4 < np.mean(found[:, -1] == order.FIRST) < 0.6


def test_one_layer_without_positions_sees_no_order():
    """What it says is the same for any order of the tokens before; two layers say otherwise."""
    tokens = order.which_first(np.random.default_rng(0), 1)
    shuffled = tokens.copy()
    shuffled[0, : order.LENGTH] = np.random.default_rng(1).permutation(tokens[0, : order.LENGTH])
    for name in ("1 layer", "1 layer, four times as wide", "2 layers"):
        model = sequences.stack(order.MODELS[name])
        variables = jax.jit(model.init)(jax.random.key(0), tokens)
        features = jax.jit(lambda v, x, model=model: model.apply(v, x, method="features")[0, -1])
        found, other = (features(variables, each) for each in (tokens, shuffled))
        assert np.allclose(found, other, atol=1e-5) == (name != "2 layers")


def test_flat_rate_is_the_peak_until_the_warm_up_would_end():
    config = presets.run_config("tiny").optimizer
    schedule = make_schedule(config, 128)
    flat = questions.make_flat_optimizer(config, schedule)
    warm = questions.make_optimizer(config, schedule)
    params = jnp.ones(1)

    def rates(optimizer):
        """Of each update: Adam's is as long as the rate where the gradient is always the same."""

        def update(state, _):
            updates, state = optimizer.update(jnp.ones(1), state, params)
            return state, -updates[0]

        steps = 4 * config.warmup_steps
        return jax.lax.scan(update, optimizer.init(params), length=steps)[1]

    warmup, expected = config.warmup_steps, schedule(jnp.arange(4 * config.warmup_steps))
    np.testing.assert_allclose(rates(warm), expected, rtol=2e-3)
    np.testing.assert_allclose(rates(flat)[:warmup], float(expected.max()), rtol=2e-3)
    np.testing.assert_allclose(rates(flat)[warmup:], expected[warmup:], rtol=2e-3)


def test_rows_without_warm_up_train_with_the_flat_optimizer(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(
        questions, "train", lambda *given, **options: used.append(options.get("optimizer"))
    )
    monkeypatch.setattr(tasks, "train", lambda *given, **options: used.append(None))
    arguments = questions.parse(["--output", str(tmp_path)])
    for row in ("base", *questions.FLAT):
        [work] = questions.make_works(arguments, [row], 1)[row]
        work.train()
    assert used == [None, *[questions.make_flat_optimizer] * 2]


def test_rows_are_valid_and_differ_from_base(tmp_path):
    arguments = questions.parse(["--output", str(tmp_path), "--seeds", "2"])
    made = questions.make_works(arguments, list(questions.ROWS), 2)
    for several in made.values():
        family_of(several[0].config.model).check(several[0].config.model)
    identities = [work.identity for several in made.values() for work in several]
    assert len(set(identities)) == len(identities)
    with pytest.raises(UserError, match="--jobs 0 must be positive"):
        questions.parse(["--jobs", "0"])


@pytest.mark.slow
def test_questions_from_end_to_end(tmp_path, monkeypatch, capsys, in_this_process):
    monkeypatch.setattr(questions, "SENTENCES", 2)
    monkeypatch.setattr(questions, "SPLITS", ("length",))
    monkeypatch.setattr(questions, "DATASET", "grammar/10k")
    # Small models, and two of them, since each compiles programs of its own.
    rows = {name: {"num_layers": 1, **questions.ROWS[name].get("model", {})} for name in PROBED}
    monkeypatch.setattr(questions, "ROWS", {name: {"model": rows[name]} for name in PROBED})
    monkeypatch.setattr(questions, "PROBED_ROWS", PROBED)
    words = f"--only probe heads layers --seeds 2 --steps 2 --output {tmp_path}"
    monkeypatch.setattr("sys.argv", ["questions", *words.split()])
    questions.main()
    shown = capsys.readouterr().out
    assert "| no positions, before training |" in shown and "encoder layer 1" in shown
    found = entries(tmp_path)
    assert set(found) == {"question-probe", "question-heads", "question-layers"}
    told = {row[0]: row[1:] for row in found["question-probe"].tables[0].rows}
    base, without = told["base"], told["no positions"]
    # Sinusoids are in the embedding, whatever is trained.
    assert float(base[0].split(", ")[0]) > 80 > float(without[0].split(", ")[0]) + 20
    assert len(set(base)) == 2
    before = [
        attention_facts.position_probe(tmp_path / f"base-{seed}", 50, False) for seed in range(2)
    ]
    assert before[0] != before[1]  # each seed began with parameters of its own
    assert "--seeds 2 --steps 2" in found["question-probe"].where.command


def test_compare_rows_pairs_by_seed(monkeypatch):
    def result(perplexity, test):
        return {"perplexity": perplexity, "BLEU test": test, "BLEU length": 9.0}

    results = {
        "base": [result(2.0, 50.0), result(8.0, 20.0)],
        "no smoothing": [result(4.0, 41.0), result(16.0, 9.0)],
    }
    monkeypatch.setattr(questions, "find_all", lambda *given: results)
    answer = questions.compare_rows(questions.parse([]), "base", ["no smoothing"])
    found = {row[1]: row[2:] for row in answer.tables[1].rows}
    # Twice the perplexity with either seed: an interval of no width, which other pairs would have.
    np.testing.assert_allclose(found["ln perplexity"], [*[np.log(2)] * 3, 2])
    assert found["BLEU test"][0] == pytest.approx(-10) and found["BLEU test"][1] < -10
