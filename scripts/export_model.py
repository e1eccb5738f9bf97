"""
Ship a checkpoint: its weights in bf16 and how they were made, as model.pt and model.json in a directory.
"""
import argparse
import sys

from nanochat.common import Help, UserError, flag, run_main, settings

READING = ("read_topk",)   # fields of a configuration that need not be as they were in training


def main(argv=None):
    parser = argparse.ArgumentParser(usage="python -m scripts.export_model --model-path base_checkpoints/then-d6 --output-path data/then-d6", description=__doc__,
                                     formatter_class=Help, allow_abbrev=False)
    flag(parser, "--model-path", required=True, help="a checkpoint, or a directory of them: then the last")
    flag(parser, "--output-path", required=True, help="the directory")
    flag(parser, "--set", action="append", default=[], metavar="FIELD=VALUE", help="how the memory is read, other than in training: read_topk=128")
    flag(parser, "--average", metavar="MODEL", help="the mean of the weights and of these: of a model before and after it was trained further")
    flag(parser, "--note", default="", metavar="TEXT", help="what else model.json is to say of how they were made: the data and its licences")
    args = parser.parse_args(argv)
    reading = settings(args.set)
    for name, value in reading.items():
        if name not in READING or type(value) is not int or value < 1:
            raise UserError(f"--set {name}={value}: {', '.join(READING)} can be set, to a positive whole number; all else was trained", code=2)
    import torch

    from nanochat.checkpoint_manager import export_model
    manifest = export_model(args.model_path, args.output_path, dtype=torch.bfloat16, reading=reading, average=args.average, note=args.note)
    print(f"{args.output_path}: step {manifest['step']}, {manifest['files']['model']['bytes']:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
