"""Multi30k English-German: the paper's architecture against a published number on the same text.

Anchor   Wu et al., "Good for Misconceived Reasons" (ACL 2021, arXiv 2105.14462): Transformer-Tiny,
         41.02 BLEU on test2016, from data/multi30k/revisit-mmt-bpe (joint BPE, lower-cased).
         Scored on tokens with BPE undone, beam 5, length penalty length^1, average of the last 10
         epoch checkpoints.

    python -m experiments.multi30k --data ../shared/data/multi30k --run-dir runs/multi30k
    python -m experiments.multi30k ... --recipe cpu          batches of 2,048 tokens, fewer epochs
    python -m experiments.multi30k ... --text raw            raw text, our own SentencePiece

Run it again to go on where it stopped. Results: experiments/results/multi30k-*.json.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from transformer_jax import presets
from transformer_jax.config import RunConfig

BEAM = {"beam_size": 5, "penalty": "power", "alpha": 1.0}


def configuration(data: Path, text: str, recipe: str, steps: int | None) -> RunConfig:
    """The run: the `multi30k` preset on one of two texts, whole or cut down for a CPU."""
    config = presets.recipe("multi30k")
    if text == "bpe":
        folder, vocabulary, train, validation = (
            data / "revisit-mmt-bpe",
            "whitespace",
            "train",
            "valid",
        )
    else:
        folder, vocabulary, train, validation = data, "bpe", "train", "val"

    def pair(name):
        return (str(folder / f"{name}.en"), str(folder / f"{name}.de"))

    config = replace(
        config,
        data=replace(
            config.data, train=pair(train), validation=pair(validation), vocabulary=vocabulary
        ),
        train=replace(config.train, checkpoint_each_epoch=True, evaluate_every=250, keep_last=10),
    )
    if recipe == "cpu":
        # A quarter of the anchor's tokens an update, so half its peak rate or a little more,
        # reached sooner because there are fewer epochs.
        config = replace(
            config,
            optimizer=replace(
                config.optimizer,
                accumulate=1,
                warmup_steps=1000,
                lr_factor=0.003 * (config.model.d_model * 1000) ** 0.5,
            ),
            data=replace(config.data, batch_tokens=2048),
        )
    if steps is not None:
        config = replace(config, train=replace(config.train, steps=steps))
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of Multi30k")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--text", choices=("bpe", "raw"), default="bpe")
    parser.add_argument("--recipe", choices=("anchor", "cpu"), default="anchor")
    parser.add_argument("--steps", type=int, help="updates in all (default: the recipe's 8,000)")
    arguments = parser.parse_args()

    from transformer_jax.job import train

    config = configuration(arguments.data, arguments.text, arguments.recipe, arguments.steps)
    train(config, arguments.run_dir)


if __name__ == "__main__":
    main()
