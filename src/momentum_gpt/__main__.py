"""`momentum-gpt VERB ...` is the same as `python -m momentum_gpt.VERB ...`, from any folder."""

from __future__ import annotations

import difflib
import importlib
import sys

from momentum_gpt import __version__

VERBS = {
    "Data": {
        "prepare": ("data_prep.prepare", "turn text into token shards"),
        "verify": ("data_prep.verify", "check that token shards are what their manifest says"),
    },
    "Models": {
        "train": ("momentum_gpt.train", "pretrain a model"),
        "evaluate": ("momentum_gpt.evaluate", "measure perplexity and in-context learning"),
        "plan": ("momentum_gpt.plan", "estimate memory, time and cost of a run"),
        "sweep": ("momentum_gpt.sweep", "train and compare variants until it is decided"),
        "power": ("momentum_gpt.power", "say what a number of seeds can find"),
        "doctor": ("momentum_gpt.doctor", "see whether this machine and a run are fit to train"),
        "compare": ("momentum_gpt.compare", "compare runs: a table, intervals and report.html"),
        "dashboard": ("momentum_gpt.dashboard", "watch runs in the browser as they go"),
        "analyze": ("momentum_gpt.analyze", "compare in-context learning with finetuning"),
        "generate": ("momentum_gpt.generate", "continue a prompt with a trained model"),
        "export": ("momentum_gpt.export", "write a model for Hugging Face transformers"),
        "lm-eval": ("momentum_gpt.harness", "run lm-eval's tasks on a trained model"),
    },
    "Attention": {
        "recall": ("momentum_gpt.recall", "compare variants on associative recall"),
        "intervene": ("momentum_gpt.intervene", "see which parts of attention recall depends on"),
        "check-attention": ("momentum_gpt.check_attention", "check a variant against its formula"),
        "bench training": ("momentum_gpt.bench.training", "time training beside other trainers"),
        "bench growth": ("momentum_gpt.bench.growth", "see how the cost of training grows"),
        "bench attention": ("momentum_gpt.bench.attention", "time momentum beside vanilla"),
        "bench evaluation": ("momentum_gpt.bench.evaluation", "time evaluation beside lm-eval"),
        "bench tokenize": ("data_prep.bench_tokenize", "time tokenization beside other libraries"),
    },
}
"""Group -> verb -> module and description. Nothing is imported before it is asked for."""


HELP = ("-h", "--help", "help")


def main() -> None:
    """Run the command that the first arguments name."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["help"] and len(arguments) > 1:
        # `momentum-gpt help train` is what git and conda have taught people to type.
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in HELP:
        print(usage(VERBS))
        return
    if arguments[0] in ("-V", "--version"):
        print(f"momentum-gpt {__version__}")
        return

    for verb, (module, _) in all_verbs().items():
        words = verb.split()
        if arguments[: len(words)] == words:
            # The command then finds its own arguments where it expects them.
            sys.argv = [f"momentum-gpt {verb}", *arguments[len(words) :]]
            if verb == "train":
                from momentum_gpt.core import stopping

                stopping.listen()  # before the imports, which take seconds
            importlib.import_module(module).main()
            return

    if arguments[0] == "bench" and set(arguments) & set(HELP):
        verbs = {verb: entry for verb, entry in all_verbs().items() if verb.startswith("bench ")}
        print(usage({"Benchmarks": verbs}))
        return
    sys.exit(unknown(arguments))


def all_verbs() -> dict[str, tuple[str, str]]:
    """Return every verb with its module and description."""
    return {verb: entry for group in VERBS.values() for verb, entry in group.items()}


def usage(groups: dict[str, dict[str, tuple[str, str]]]) -> str:
    """Return the list of verbs."""
    lines = ["usage: momentum-gpt VERB [option=value ...]"]
    for group, verbs in groups.items():
        lines += ["", group]
        lines += [f"  {verb:<17}{description}" for verb, (_, description) in verbs.items()]
    lines += [
        "",
        "momentum-gpt VERB --help    explains a verb and its options",
        "momentum-gpt --version      prints the version",
    ]
    return "\n".join(lines)


def unknown(arguments: list[str]) -> int:
    """Print what is wrong with the verb; return the exit code of a mistake of the user."""
    given = arguments[0]
    if given == "bench":
        kinds = [verb.split()[1] for verb in all_verbs() if verb.startswith("bench ")]
        print(f"error: bench needs one of {', '.join(kinds)}", file=sys.stderr)
        return 2

    close = difflib.get_close_matches(given, all_verbs(), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "momentum-gpt --help lists them"
    print(f"error: there is no verb {given!r}: {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
