"""A user's state is a file of its own: what leads elsewhere, or could hang, is refused before it is opened."""
import os

import pytest

from nanochat.common import UserError
from nanochat.users import user_path

FILES = ("eve.pt", "eve.traces", "eve.pt.new", "eve.traces.new")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make, match", [(os.symlink, "a link"), (os.link, "two names"), (lambda _, path: os.mkfifo(path), "is no file"),
                                         (lambda _, path: os.mkdir(path), "is no file")])
def test_a_state_is_a_plain_file_with_one_name(tmp_path, name, make, match):
    (tmp_path / "bob.pt").write_bytes(b"bob's")
    for plain in FILES:
        (tmp_path / plain).write_bytes(b"eve's")
    assert user_path(tmp_path, "eve") == tmp_path / "eve.pt"
    (tmp_path / name).unlink()
    make(tmp_path / "bob.pt", tmp_path / name)
    with pytest.raises(UserError, match=match):
        user_path(tmp_path, "eve")
