"""Break one named line at a time; the tests named beside it must notice.

    make mutants        python -m tests.mutants [NUMBER ...]

Each mutant is (file, line as it stands, broken line, tests that must fail). A line that is no
longer there is an error: move the mutant with the code. The breaking happens in a copy.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "transformer_jax/"

MUTANTS = [
    ("functional/attention.py", "scale = 1.0 / math.sqrt(query.shape[-1])",
     "scale = 1.0 / query.shape[-1]", "tests/functional/test_attention.py"),
    ("functional/attention.py", "return jnp.where(mask, weights, 0.0)", "return weights",
     "tests/functional/test_attention.py"),
    ("functional/masking.py", "positions[None, :] <= positions[:, None]",
     "positions[None, :] < positions[:, None]", "tests/functional/test_masking.py"),
    ("functional/normalization.py",
     "variance = jnp.square(x_f32 - mean).mean(axis=-1, keepdims=True)",
     "variance = jnp.square(x_f32 - mean).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1)",
     "tests/functional/test_normalization.py"),
    ("functional/normalization.py",
     "return summed if axis_name is None else jax.lax.psum(summed, axis_name)", "return summed",
     "tests/functional/test_normalization.py"),
    ("functional/positions.py", "max(pairs - 1, 1) if layout", "pairs if layout",
     "tests/functional/test_positions.py"),
    ("functional/losses.py", "targets.shape != logits.shape[:-1]", "targets.ndim != 2",
     "tests/functional/test_losses.py"),
    ("functional/losses.py", "smoothing / (classes - 1) * others", "smoothing / classes * others",
     "tests/functional/test_losses.py"),
    ("functional/losses.py", "jnp.sum(jnp.where(counted, loss, 0.0))", "jnp.sum(loss)",
     "tests/functional/test_losses.py"),
    ("functional/losses.py", "logits = jnp.where(counted[..., None], logits, 0.0)", "pass",
     "tests/functional/test_losses.py"),
    ("functional/arguments.py", "return jnp.where(ids < 0, count, ids)", "return ids",
     "tests/functional/test_losses.py"),
    ("functional/linear.py", "return (product.astype(jnp.float32) + bias).astype(product.dtype)",
     "return product + bias.astype(product.dtype)",
     "tests/functional/test_linear.py"),
    ("functional/keys.py", "[seed >> 32, seed & 0xFFFFFFFF]", "[0, seed & 0xFFFFFFFF]",
     "tests/functional/test_keys.py"),
    ("functional/keys.py", "if str(jax.random.key_impl(rng)) == GENERATOR:", "if True:",
     "tests/functional/test_keys.py"),
    ("functional/arguments.py", "any(m not in (1, n) for m, n in zip(mask.shape, shape))", "False",
     "tests/functional/test_arguments.py"),
    ("functional/embedding.py", "math.sqrt(table.shape[1])", "table.shape[1]",
     "tests/functional/test_embedding.py"),
    ("functional/dropout.py", "scale = 2**16 / (2**16 - threshold)", "scale = 1.0",
     "tests/functional/test_dropout.py"),
    ("models/layers.py",
     "return norm(x + self.apply_dropout(sublayer(x), self.config.dropout, rows), counted)",
     "return norm(x + sublayer(x), counted)",
     "tests/models/test_dropout.py::test_dropout_positions"),
    ("models/layers.py", "query = att.split_heads(self.query(x), config.num_heads)",
     "query = att.split_heads(self.query(x) * (0.0 if self.cross else 1.0), config.num_heads)",
     "tests/models"),
    ("models/layers.py", "return rng if rows is None else fold_in_rows(rng, rows)", "return rng",
     "tests/models/test_dropout.py"),
    ("models/layers.py",
     "weights = self.apply_dropout(weights, config.attention_dropout, rows)",
     "values = self.apply_dropout(values, config.attention_dropout, rows)",
     "tests/models/test_dropout.py"),
    ("models/norms.py", "return layer_norm(x, gain, bias, self.config.norm_epsilon)",
     "return layer_norm(x, gain, bias)", "tests/models/test_transformer.py"),
    ("functional/feed_forward.py",
     "    hidden = dropout(hidden, dropout_rate, rng)\n"
     "    return linear(hidden, kernel_out, bias_out)",
     "    return dropout(linear(hidden, kernel_out, bias_out), dropout_rate, rng)",
     "tests/models/test_dropout.py"),
    ("models/embedding.py", "jax.lax.dynamic_slice_in_dim(table, position, 1)",
     "jax.lax.dynamic_slice_in_dim(table, position, 2)", "tests/models/test_transformer.py"),
    ("functional/positions.py", "if length < 0:", "if length < 1:",
     "tests/functional/test_positions.py"),
    ("models/embedding.py", "(x if positions is None else x + positions).astype(self.dtype)",
     "x.astype(self.dtype) + (0 if positions is None else positions.astype(self.dtype))",
     "tests/models/test_transformer.py"),
    ("models/layers.py", "keys + values if self.cross else 2 * keys + values", "keys",
     "tests/models/test_transformer.py::test_initialisation_of_tensor2tensor"),
    ("models/transformer.py", "mask = (jnp.arange(max_length) <= position)",
     "mask = (jnp.arange(max_length) < max_length)",
     "tests/models/test_transformer.py::test_cached_step_equals_the_full_forward"),
    ("decoding/beam.py", "beam.open_slots - jnp.sum(ended_log_probs > -jnp.inf, axis=1)",
     "beam.open_slots",
     "tests/decoding/test_searches.py"),
    ("decoding/beam.py", "first_row + _take(parents, chosen)", "first_row + chosen",
     "tests/decoding/test_searches.py"),
    ("decoding/beam.py", "jnp.where(must_end & ~is_eos, -jnp.inf, log_probs)", "log_probs",
     "tests/decoding/test_searches.py"),
    ("decoding/beam.py",
     "length_divisor(limits, length_penalty, alpha)",
     "0.0", "tests/decoding/test_searches.py"),
    ("decoding/rows.py", "log_probs = jnp.where(mask, log_probs, -jnp.inf)",
     "log_probs = jax.nn.log_softmax(jnp.where(mask, log_probs, -jnp.inf))",
     "tests/decoding"),
    ("decoding/inference.py", "sorted(hypotheses, key=lambda each: -each.score)", "hypotheses",
     "tests/decoding/test_inference.py"),
    ("decoding/sampling.py", "before < top_p", "before + ranked < top_p",
     "tests/decoding/test_searches.py"),
    ("data/batching.py", "first, end = (e * len(members) // shape.rows",
     "first, end = ((e + 1) * len(members) // shape.rows", "tests/data/test_data.py"),
    ("data/batching.py", 'self._random("sentences", epoch, len(self._corpus))',
     'self._random("sentences", 0, len(self._corpus))', "tests/data/test_data.py"),
    ("data/batching.py",
     'order = np.argsort(self._random("batches", epoch, len(batches_of_epoch)), kind="stable")',
     "order = np.arange(len(batches_of_epoch))", "tests/data/test_data.py"),
    ("data/text.py", "number == 1 and raw.startswith(BOM_UTF8)", "False",
     "tests/data/test_data.py::test_text_drops_byte_order_mark"),
    ("data/text.py", 'in ("Cc", "Cf")', 'in ("Cc",)', "tests/data/test_data.py"),
    ("data/text.py", "not stat.S_ISREG(os.stat(path).st_mode) and", "False and",
     "tests/data/test_data.py::test_text_from_a_pipe_is_refused_before_the_work"),
    ("data/compression.py", "(1AY&SY|", "(|", "tests/data/test_compression.py"),
    ("data/segmentation.py", "(is_spaceless(ends) and not spaces)", "not spaces",
     "tests/data/test_segmentation.py"),
    ("data/segmentation.py", 'regex.finditer(r"\\X", text)', 're.finditer(r".", text)',
     "tests/data/test_segmentation.py"),
    ("data/segmentation.py", "if len(line) <= _BLOCK", "if True",
     "tests/data/test_segmentation.py"),
    ("data/corpus.py", '["" if is_blank(line) else line for line in side]', "list(side)",
     "tests/data/test_data.py::test_corpus_filters_pairs_with_a_blank_side"),
    ("data/splitting.py", "if len(found) <= (usual if", "if len(found) <= 1 + (usual if",
     "tests/commands/test_translate.py"),
    ("data/splitting.py", "longest = min(self._lines.max_tokens, longest)", "pass",
     "tests/commands/test_translate.py"),
    ("translator.py", 'sources, search, split_sentences="never", **options',
     "sources, search, **options", "tests/commands/test_evaluate.py"),
    ("evaluation/bleu.py", '_TOKENIZERS.get(language, "13a")', '"13a"',
     "tests/evaluation/test_bleu.py"),
    ("tasks/translation.py",
     'config, train=dataclasses.replace(config.train, best_metric="chrf")', "config",
     "tests/run/test_preflight.py"),
    ("run/identity.py", "if value != defaults[n]}", "}", "tests/run/test_identity.py"),
    ("run/identity.py", "if _changed(config).keys() - set(_FIELDS):", "if False:",
     "tests/run/test_identity.py"),
    ("models/dimensions.py", "return found if leaf.shape == shape else P()", "return found",
     "tests/models/test_dimensions.py::test_axes_follow_parameters_into_any_state"),
    ("run/preflight.py", "if needed > free:", "if False:", "tests/run/test_preflight.py"),
    ("run/resume.py", "if not run.checkpoint_root.is_dir():", "if False:",
     "tests/run/test_preflight.py"),
    ("run/resume.py", "    run.check_config(config)\n    config = run.task.with_metric(config)",
     "    run.check_config(config)", "tests/run/test_preflight.py"),
    ("decoding/generate.py", "sample_ids[:, 1:] * search.rows", "0 * sample_ids[:, 1:]",
     "tests/commands/test_translate.py"),
    ("visualization/fonts.py", '"lastresort" in', '"no font" in',
     "tests/visualization/test_fonts.py"),
    ("devices/signals.py", "SIG_IGN else [signal.SIGHUP]", "SIG_IGN else []",
     "tests/test_environment.py"),
    ("devices/settings.py", 'jax.numpy_dtype_promotion("standard"), ', "",
     "tests/test_environment.py"),
    ("data/text.py", "enumerate(text, 1)", "enumerate(file.read().splitlines(), 1)",
     "tests/data/test_data.py"),
    ("data/builders.py", "if hashlib.sha256(content).hexdigest() != self.SHA256[name]:",
     "if False:", "tests/data/test_multi30k.py"),
    ("data/preparation.py", "_is_intact(folder / p)", "True", "tests/data/test_preparation.py"),
    ("data/grammar/german.py", 'form[-1] not in "ns" else form', 'form[-1] not in "nser" else form',
     "tests/data/grammar/test_lexicon.py"),
    ("data/grammar/corpus.py", "example.distance > MAX_DISTANCE",
     "example.distance > MAX_DISTANCE + 1", "tests/data/grammar/test_corpus.py"),
    ("visualization/attention.py", ".sum(-1) for _, places in merge_pieces(columns)",
     ".mean(-1) for _, places in merge_pieces(columns)", "tests/visualization"),
    ("training/state.py", "self.params if self.ema is None else self.ema", "self.params",
     "tests/training/test_step.py"),
    ("evaluation/evaluate.py", "targets, 0.0, ignored)", "targets, 0.1, ignored)",
     "tests/evaluation"),
    ("evaluation/evaluate.py", "correct &= targets != ignored", "pass", "tests/evaluation"),
    ("run/variables.py", 'if has_ema := "ema" in checkpoints.metadata(step)["fingerprints"]:',
     "if has_ema := False:", "tests/run/test_old_runs.py"),
    ("run/average.py", 'items["params"] = mean', "pass", "tests/training/test_collections.py"),
    ("run/folder.py", "return score if score is None or more else -score", "return score",
     "tests/run/test_train.py"),
    ("training/step.py", "_replace(collections=more.collections)",
     "_replace(collections=sums.collections)", "tests/training/test_collections.py"),
    ("training/step.py", "where_finite(sums.collections, state.collections)", "sums.collections",
     "tests/training/test_collections.py"),
    ("training/step.py", "if schedule is not None and not rates:", "if schedule is not None:",
     "tests/test_extensions.py"),
    ("training/runners.py", 'with set_row_axes("devices"):', "with set_row_axes():",
     "tests/training/test_collections.py"),
    ("training/runners.py", "with set_row_axes(*self.layout.batch_axes):",
     "with set_row_axes():",
     "tests/training/test_collections.py"),
    ("models/norms.py", "batch_statistics(x, counted, row_axes())",
     "batch_statistics(x, None, row_axes())", "tests/training/test_collections.py"),
    ("models/transformer.py", "shifted = jnp.where(places == 0, self.config.start_id, shifted)",
     "pass", "tests/models/test_encoder_decoder.py"),
    ("models/embedding.py", "positions[None] if places is None else positions[places]",
     "positions[None]", "tests/models/test_encoder_decoder.py"),
    ("functional/losses.py", "constant_values=fill)", "constant_values=1)",
     "tests/functional/test_losses.py"),
    ("data/batching.py", 'f"{i} {seen}"', 'f"{i}"', "tests/test_extensions.py"),
    ("data/corpus.py", "if not vocabularies.joint:\n        digest", "if False:\n        digest",
     "tests/data/test_pairing.py"),
    ("training/patience.py", "gain = score - self.best if self.more else self.best - score",
     "gain = score - self.best", "tests/training/test_patience.py"),
    ("training/loop.py", "step % config.evaluate_every == 0 and should_end(step, scores)",
     "should_end(step, scores)", "tests/training/test_patience.py"),
    ("training/patience.py",
     '(saved.get("metric"), saved.get("limit")) == (metric, train.patience)', "saved",
     "tests/training/test_patience.py"),
    ("run/resume.py", "return  # the run resumes from an older one", "raise",
     "tests/training/test_patience.py"),
    ("run/inspect.py", "notes, read = [], dict(wanted)", "notes, read = [], wanted",
     "tests/test_extensions.py"),
    ("run/train.py", "end = first if patience.ended else config.train.steps",
     "end = config.train.steps",
     "tests/training/test_patience.py"),
    ("tasks/task.py", "read_target(batch.target, ignored),", "batch.target,",
     "tests/training/test_step.py"),
    ("models/dimensions.py", "for start in range(len(names)):", "for start in range(1):",
     "tests/models/test_dimensions.py"),
    ("training/metrics.py", "self._on_record = None\n                log", "log",
     "tests/test_library.py"),
    ("training/schedule.py", "jnp.asarray(count, jnp.float32) + 1",
     "jnp.asarray(count, jnp.float32)",
     "tests/training/test_step.py::test_schedule_is_equation_3_counted_from_one"),
    ("training/step.py", "where_finite(params, state.params)", "params",
     "tests/training/test_step.py"),
    ("training/fingerprint.py", "* jnp.uint32(0x85EBCA6B)", "* jnp.uint32(0x85EBCA6C)",
     "tests/training/test_step.py::test_fingerprints_are_murmur_finalised_words_and_places"),
    ("training/fingerprint.py", "words ^ _mix(position + jnp.uint32(0x9E3779B9))", "words",
     "tests/training/test_step.py::test_fingerprints_see_every_bit_and_place"),
    ("training/metrics.py", 'json.loads(line)["step"] <= step', "json.loads(line)",
     "tests/run/test_train.py::test_resume_is_bit_for_bit"),
    ("run/train.py", "batches.shape_and_indices(step * accumulation_steps + i)",
     "batches.shape_and_indices((step - first) * accumulation_steps + i)",
     "tests/run/test_train.py::test_resume_is_bit_for_bit"),
    ("run/resume.py", "if not run.is_own(meta[\"run_identity\"]):", "if False:",
     "tests/run/test_recovery.py::test_checkpoint_of_another_configuration_is_refused"),
    ("run/checkpoints.py", "meta = copy.deepcopy(meta)", "pass", "tests/run/test_checkpoints.py"),
    ("run/checkpoints.py", "if saved[path] != found[path]", "if False",
     "tests/run/test_checkpoints.py"),
    ("run/train.py", "{*checkpoints.scheduled_steps(), checkpoints.steps()[-1]}",
     "{*checkpoints.scheduled_steps()}",
     "tests/run/test_recovery.py::test_stopped_run_may_end_at_its_step"),
    ("run/variables.py", 'meta.get("newest_step", step) < steps[-1]', "step < steps[-1]",
     "tests/commands/test_average.py"),
    ("run/checkpoints.py", "self._check_orbax_metadata()\n", "pass\n", "tests/run/test_fuzzing.py"),
    ("run/retention.py", "scheduled = self.scheduled(steps)", "scheduled = list(steps)",
     "tests/run/test_recovery.py::test_stopped_run_resumes_bit_for_bit"),
    ("devices/signals.py", "class Interrupted(BaseException)", "class Interrupted(Exception)",
     "tests/run/test_recovery.py::test_signal_during_restore_is_no_damage"),
    ("devices/layout.py", "size % self.sizes[axis] == 0", "True",
     "tests/devices/test_layout.py::test_parameters_have_shardings"),
    ("devices/layout.py", "missing = -len(indices) % self.shards", "missing = 0",
     "tests/devices/test_layout.py::test_batch_rows_are_padded_to_the_devices"),
    ("training/runners.py", 'added = jax.lax.psum(sums._replace(collections={}), "devices")',
     'added = jax.lax.pmean(sums._replace(collections={}), "devices")',
     "tests/devices/test_layout.py::test_step_equals_one_device"),
    ("training/runners.py", "return jax.lax.psum(part[0], self.layout.batch_axes)",
     "return part[0]",
     "tests/devices/test_layout.py::test_step_equals_one_device"),
    ("evaluation/evaluate.py", "jax.lax.psum(found.sum(axis=0), BATCH_AXES)", "found.sum(axis=0)",
     "tests/devices/test_layout.py::test_evaluation_counts_every_sentence_once"),
    ("tools/verification.py", "and not self._beyond", "",
     "tests/tools/test_verification.py::test_verify_resume_reports_differences_between_topologies"),
    ("data/segmentation.py", "start, unit = gaps[last][1], last + 1",
     "start, unit = gaps[last][0], last + 1", "tests/data/test_segmentation.py"),
    ("tools/verification.py", "left == right for left, right", "True for left, right",
     "tests/tools/test_verification.py::test_resume_report_shows_each_value"),
    ("evaluation/bleu.py", "_HYPHEN.sub(", "_HYPHEN.subn(", "tests/evaluation/test_bleu.py"),
    ("visualization/page.py", '.replace("<", "\\\\u003c")', "", "tests/visualization/test_page.py"),
    ("../experiments/claims.py", "/ 2, count - 1)", "/ 2, count)",
     "tests/experiments/test_claims.py"),
    ("../experiments/audit.py", "there = (around >= 0) & (around < length)", "there = around >= 0",
     "tests/experiments/test_audit.py"),
    ("../experiments/figures3_5_heads.py", "slice(head * value_size, (head + 1) * value_size)",
     "slice(head, head + value_size)", "tests/experiments/test_figures.py"),
    ("../experiments/calls.py", 'if side == "out":', 'if side == "in":',
     "tests/experiments/test_figures.py::test_figure_lines_follow_the_data"),
]  # fmt: skip


def survives(copy: Path, file: str, line: str, broken: str, tests: str) -> bool:
    path = copy / PACKAGE / file
    source = path.read_text(encoding="utf-8")
    if source.count(line) != 1:
        sys.exit(f"{file}: {line!r} stands there {source.count(line)} times, not once")
    path.write_text(source.replace(line, broken), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", tests]
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy),  # before the installed one
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }
        done = subprocess.run(command, cwd=copy, capture_output=True, env=environment)
    finally:
        path.write_text(source, encoding="utf-8")
    told = done.stdout.decode()
    # A test that fails catches a mutant; one that cannot even be imported proves nothing.
    if done.returncode != 0 and "\nFAILED " not in told:
        sys.exit(f"{file}: pytest did not run: {told[-500:]}")
    return done.returncode == 0


def main() -> None:
    chosen = [int(word) for word in sys.argv[1:]] or range(len(MUTANTS))
    alive = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("transformer_jax", "experiments", "benchmarks", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, copy / name)
        for number in chosen:
            lives = survives(copy, *MUTANTS[number])
            state = "SURVIVED" if lives else "caught"
            print(f"{number:3} {state}  {': '.join(MUTANTS[number][:2])}", flush=True)
            alive += [number] if lives else []
    if alive:
        sys.exit(f"{len(alive)} of {len(list(chosen))} mutants survived: {alive}")
    print(f"all {len(list(chosen))} mutants caught")


if __name__ == "__main__":
    main()
