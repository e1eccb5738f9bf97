"""
Ship a checkpoint: its weights (the largest matrices in 8 bits, the rest in bf16) and how they were made, as model.pt
and model.json in a directory.
"""
import argparse
import sys
from pathlib import Path

from nanochat.common import Help, UserError, flag, run_main, settings

READING = ("read_topk",)   # fields of a configuration that need not be as they were in training


def check_output(directory, replace):
    """
    UserError where the place is not there, and for files that are: but, with `replace`, for a model that was shipped.
    """
    from nanochat.checkpoint_manager import load_model_file
    if not directory.absolute().parent.is_dir():
        raise UserError(f"{directory.parent}: no such directory to write to")
    if there := [path for path in (directory / "model.pt", directory / "model.json") if path.exists()]:
        if not replace:
            raise UserError(f"{there[0]}: is there already (--replace writes over a shipped model)", code=2)
        # a first export that was killed at its end has the model under the name that it is put under first
        whole = len(there) == 2 or (directory / "model.pt.new").exists()
        if not whole or not load_model_file(directory.absolute())["verified"]:
            raise UserError(f"{directory}: not a shipped model, it is not written over: use another directory", code=2)


def main(argv=None):
    parser = argparse.ArgumentParser(usage="python -m scripts.export_model --model-path base_checkpoints/then-d6 "
                                           "--output-path data/then-d6", description=__doc__,
                                     formatter_class=Help, allow_abbrev=False)
    flag(parser, "--model-path", required=True, help="a checkpoint, or a directory of them: then the last")
    flag(parser, "--output-path", required=True, help="the directory")
    flag(parser, "--set", action="append", default=[], metavar="FIELD=VALUE",
         help="how the memory is read, other than in training: read_topk=128")
    flag(parser, "--average", metavar="MODEL",
         help="the mean of the weights and of these: of a model before and after it was trained further")
    flag(parser, "--merge", action="store_true",
         help="of an adapter to an open model: ship the whole model, with the adapter added to its weights")
    flag(parser, "--note", default="", metavar="TEXT",
         help="what else model.json is to say of how they were made: the data and its licences")
    flag(parser, "--replace", action="store_true", help="write over a model that was shipped in this directory")
    args = parser.parse_args(argv)
    reading = settings(args.set)
    for name, value in reading.items():
        if name not in READING or type(value) is not int or value < 1:
            raise UserError(f"--set {name}={value}: {', '.join(READING)} can be set, to a positive whole number; all "
                            "else was trained", code=2)
    check_output(Path(args.output_path), args.replace)
    import torch

    from nanochat import base
    from nanochat.checkpoint_manager import export_model, load_model_file
    source = load_model_file(args.model_path)
    if args.merge and "base" not in source["meta"]:
        raise UserError(f"--merge: {args.model_path} is no adapter to an open model", code=2)
    source = base.merged(args.model_path, source) if args.merge else source
    manifest = export_model(source, args.output_path, dtype=torch.bfloat16, reading=reading, average=args.average,
                            note=args.note)
    print(f"{args.output_path}: step {manifest['step']}, {manifest['files']['model']['bytes']:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
