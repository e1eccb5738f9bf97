"""
Which state a command is about: a file, or a user's in a directory that holds one for each user. No torch: `--help`
answers at once.
"""
import datetime
import math
import os
import re
import time
from pathlib import Path

from nanochat.common import OwnPath, UserError, flag
from nanochat.text import UNKNOWN

# no separator, no leading dot, no capitals: two names can't meet in one file, on any file system
NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")


def add_user(parser):
    """--state-dir and --user, instead of a path."""
    flag(parser, "--state-dir", metavar="DIR", help="a directory with one state for each user, instead of a path")
    flag(parser, "--user", metavar="NAME",
         help="whose state in --state-dir: lower-case letters, digits and . _ @ + - (at most 64)")


def user_path(directory, name):
    """
    The state file of a user, whose files must be plain ones of their own when they are opened: a link, also a hard one,
    could lead to another user's memory. UserError for a name that could leave the directory.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"user {name!r}: a name is 1 to 64 lower-case letters, digits and . _ @ + -, "
                        "beginning with a letter or digit", code=2)
    return OwnPath(os.path.expanduser(directory)) / f"{name}.pt"


def state_path(parser, args, flag_name, make=False):
    """
    The state that the flags of a command name: its path flag, or --state-dir with --user. make: the directory may be
    new.
    """
    given, spelled = getattr(args, flag_name), "--" + flag_name.replace("_", "-")
    if bool(args.state_dir) != (args.user is not None):
        parser.error("--state-dir and --user go together")
    if bool(given) == bool(args.state_dir):
        parser.error(f"{spelled} is needed, or --state-dir and --user" if not given
                     else f"{spelled} and --state-dir exclude each other")
    if given:
        return Path(os.path.expanduser(given))
    if make:
        Path(os.path.expanduser(args.state_dir)).mkdir(mode=0o700, exist_ok=True)
    return user_path(args.state_dir, args.user)


def moment(text):
    """
    Seconds since 1970 of 'now' or an ISO 8601 date and time, local time where no zone is given. For argparse:
    ValueError where it is neither.
    """
    if text == "now":
        return int(time.time())
    try:
        seconds = math.floor(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
    except (OverflowError, OSError) as error:   # year 1 or 9999, moved by a zone
        raise ValueError(str(error)) from error
    if seconds == UNKNOWN:
        raise ValueError("the last second before 1970 can't be told from a time that is not known")
    return seconds
