"""lm-eval with our models: its own command line, and `--model momentum_gpt`.

    python -m momentum_gpt.harness --model momentum_gpt --model_args run=runs/a --tasks piqa --num_fewshot 0

What the requests have in common is computed once. Needs lm-eval: pip install 'momentum-gpt[harness]'.
"""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from lm_eval.__main__ import cli_evaluate

        import momentum_gpt.evaluation.few_shot.lm_eval_model  # noqa: F401 - registers the model
    except ModuleNotFoundError as missing:
        print(
            f"error: {missing.name} is not installed: pip install 'momentum-gpt[harness]'",
            file=sys.stderr,
        )
        sys.exit(2)
    cli_evaluate()


if __name__ == "__main__":
    main()
