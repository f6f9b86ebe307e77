"""`momentum-gpt VERB ...` is the same door as `python -m momentum_gpt.VERB ...`."""

from __future__ import annotations

import importlib
import sys

VERBS = {
    "train": "pretrain a model",
    "evaluate": "measure a trained model: perplexity, loss by position, the induction probe",
    "generate": "let a trained model go on from a prompt",
    "export": "write a trained model as a folder of Hugging Face's transformers",
    "compare": "set finished runs side by side: a table and report.html",
}


def main() -> None:
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in VERBS:
        del sys.argv[1]
        importlib.import_module(f"momentum_gpt.{verb}").main()
        return
    asked_for_help = verb in ("", "-h", "--help")
    if not asked_for_help:
        print(f"error: there is no verb {verb!r}", file=sys.stderr)
    print(
        "usage: momentum-gpt VERB [option=value ...]\n",
        *(f"\n  {name:<10} {does}" for name, does in VERBS.items()),
        sep="",
    )
    print("\nmomentum-gpt VERB --help shows a verb's options.")
    sys.exit(0 if asked_for_help else 2)


if __name__ == "__main__":
    main()
