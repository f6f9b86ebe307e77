"""Run lm-eval's own command line, with our models as `--model momentum_gpt`.

    momentum-gpt lm-eval --model momentum_gpt --model_args run=runs/a \\
        --tasks piqa --num_fewshot 0

What the requests have in common is computed once. This command needs lm-eval:
pip install 'momentum-gpt[harness]'. With it, `--help` shows its options.
"""

from __future__ import annotations

import sys

from momentum_gpt.core.errors import UserError

HELP = {"-h", "--help"}


def main() -> None:
    """Register our model class and hand over to lm-eval."""
    wants_help = bool(HELP & set(sys.argv[1:]))
    if wants_help:
        print(__doc__, flush=True)

    try:
        from lm_eval.__main__ import cli_evaluate

        # The model class loads torch, which help has no use for.
        if not wants_help:
            import momentum_gpt.evaluation.few_shot.lm_eval_model  # noqa: F401 - registers it
    except ModuleNotFoundError as missing:
        if wants_help:
            return
        install = "pip install 'momentum-gpt[harness]'"
        print(f"error: {missing.name} is not installed: {install}", file=sys.stderr)
        sys.exit(2)

    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
