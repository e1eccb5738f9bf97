"""A user's state is a file of its own: what leads elsewhere, or could hang, is refused when it is opened."""
import os

import pytest

from nanochat.common import UserError
from nanochat.memory import Store, Writer
from nanochat.users import user_path
from tests.test_memory import add, build, files


@pytest.mark.parametrize("suffix", (".pt", ".traces"))
@pytest.mark.parametrize("make, match", [(os.symlink, "a link"), (os.link, "two names"),
                                         (lambda _, path: os.mkfifo(path), "a fifo|no such state file"),
                                         (lambda _, path: os.mkdir(path), "Is a directory|no such state file")])
def test_a_state_is_a_plain_file_with_one_name(tmp_path, suffix, make, match):
    """Also where the link is made after the path was asked for: what is looked at is what was opened."""
    for name, seeds in (("bob", [1, 2]), ("eve", [3])):
        build(user_path(tmp_path, name), seeds)
    path = user_path(tmp_path, "eve")
    (tmp_path / f"eve{suffix}").unlink()
    make(tmp_path / f"bob{suffix}", tmp_path / f"eve{suffix}")
    before = {name: (tmp_path / name).read_bytes() for name in ("bob.pt", "bob.traces")}
    for opened in (Store, Writer):
        with pytest.raises((UserError, OSError), match=match):
            opened(path)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_a_link_that_is_put_there_is_replaced_not_followed(tmp_path):
    for name in ("eve.pt.new", "eve.traces.new", "eve.pt"):
        (tmp_path / name).symlink_to(tmp_path / "bob")
    build(user_path(tmp_path, "eve"), [1, 2])
    with Writer(user_path(tmp_path, "eve")) as writer:
        writer.delete([1])
        add(writer, [3])
    assert sorted(files(tmp_path)) == ["eve.pt", "eve.traces"]
