"""
Ship a checkpoint: its weights in bf16 and how they were made, as model.pt and model.json in a directory.
"""
import argparse
import sys

from nanochat.common import Help, flag, run_main


def main(argv=None):
    parser = argparse.ArgumentParser(usage="python -m scripts.export_model --model-path base_checkpoints/then-d4 --output-path data/then-d4", description=__doc__,
                                     formatter_class=Help, allow_abbrev=False)
    flag(parser, "--model-path", required=True, help="a checkpoint, or a directory of them: then the last")
    flag(parser, "--output-path", required=True, help="the directory")
    args = parser.parse_args(argv)
    import torch

    from nanochat.checkpoint_manager import export_model
    manifest = export_model(args.model_path, args.output_path, dtype=torch.bfloat16)
    print(f"{args.output_path}: step {manifest['step']}, {manifest['files']['model']['bytes']:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
