"""Run lm-eval, its own command line, with our models as `--model momentum_gpt`.

    python -m momentum_gpt.harness --model momentum_gpt --model_args run=runs/a \\
        --tasks piqa --num_fewshot 0

What the requests have in common is computed once. This command needs lm-eval:
pip install 'momentum-gpt[harness]'. `--help` shows its options.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

HELP = {"-h", "--help"}

INSTALL = "pip install 'momentum-gpt[harness]'"


def main() -> None:
    """Register our model class and hand over to lm-eval."""
    wants_help = bool(HELP & set(sys.argv[1:]))
    if wants_help:
        print(__doc__, flush=True)

    for library in ("lm_eval", "accelerate"):
        if find_spec(library) is None:
            if wants_help:
                return
            print(f"error: {library} is not installed: {INSTALL}", file=sys.stderr)
            sys.exit(2)

    from lm_eval.__main__ import cli_evaluate

    # The model class loads torch, which help has no use for.
    if not wants_help:
        import momentum_gpt.evaluation.few_shot.lm_eval_model  # noqa: F401 - registers the model
    cli_evaluate()


if __name__ == "__main__":
    main()
