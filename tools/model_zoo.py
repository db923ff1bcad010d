#!/usr/bin/env python3
"""Count all configs' models and write docs/model_zoo.md and model-index.yml: see --help."""

from crossformer_mm.engine import cli, model_zoo

if __name__ == '__main__':
    raise SystemExit(cli.run(model_zoo.model_zoo_parser(), model_zoo.write_model_zoo))
