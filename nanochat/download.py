"""
Files from the web that arrive whole: resumed where a connection broke, tried again, checked against length and SHA-256,
under their name only then.

Checksums are those the server gives: Hugging Face names the SHA-256 of a large file in the header X-Linked-ETag, its
length in X-Linked-Size, of the answer that redirects to the place where the bytes are.
"""
import http.client
import os
import re
import time
import urllib.error
import urllib.request

from nanochat.common import NOFOLLOW, UserError, fsync_dir, open_file, sha256_file

BLOCK = 1 << 20
GONE = (401, 403, 404, 410, 451)   # to ask again would not help


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are answers, too: their headers say what will come."""
    def redirect_request(self, *_):
        return None


def expected(url, timeout):
    """
    (SHA-256 or None, length or None) of what is at `url`, by its headers. Raises OSError and its kin as urllib does.
    """
    opener = urllib.request.build_opener(_Stay)
    try:
        answer = opener.open(urllib.request.Request(url, method="HEAD"), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code not in (301, 302, 303, 307, 308):
            raise
        answer = error   # the redirect itself
    with answer:
        tag = answer.headers.get("X-Linked-ETag", "").strip('"')
        length = (answer.headers.get("X-Linked-Size")
                  or (answer.headers.get("Content-Length") if answer.status == 200 else None))
    if length and not re.fullmatch(r"[0-9]{1,18}", length):
        raise OSError(f"the server names a length that is no number: {length[:40]}")
    return tag if re.fullmatch(r"[0-9a-f]{64}", tag) else None, int(length) if length else None


def fetch(url, path, attempts=6, timeout=30.0, pause=1.0, progress=None):
    """
    Downloads `url` to `path` (a Path). A file that is there is left alone: it was checked when it came. What has
    arrived of it before waits in .NAME.part, and is gone on from. A connection that says nothing for `timeout` seconds
    is given up; after `attempts` failures in a row that brought nothing, with doubling pauses from `pause` seconds
    between them, UserError in one line. progress(bytes): called as they come, negative where they have to be thrown
    away.

    Returns "here", "checked" (by SHA-256) or "unchecked" (the server names none: only the length is known to be right,
    if even that).
    """
    if path.exists():
        return "here"
    path.parent.mkdir(parents=True, exist_ok=True)
    part, progress, failures, reason = path.with_name(f".{path.name}.part"), progress or (lambda n: None), 0, ""
    counted = 0   # bytes that progress has been told of

    def count(size):
        nonlocal counted
        progress(size - counted)
        counted = size

    if os.path.lexists(part):
        os.close(open_file(part, follow=False))   # a link or a fifo may have been put there
    while failures < attempts:
        if failures:
            time.sleep(pause * 2 ** (failures - 1))
        have = part.stat().st_size if part.exists() else 0
        try:
            digest, length = expected(url, timeout)
            if length is not None and have > length:
                part.unlink()   # of another version of it
                have = 0
            if length is None or have < length:
                _receive(url, part, have, timeout, count)
            size = part.stat().st_size
            if length is not None and size < length:
                raise OSError(f"the connection closed after {size:,} of {length:,} bytes")
            if (length is not None and size > length) or (digest and digest != sha256_file(part)):
                part.unlink()
                raise OSError("what came is not what the server promised (length or SHA-256)")
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
            fsync_dir(path.parent)
            return "checked" if digest else "unchecked"
        except (OSError, http.client.HTTPException) as error:   # urllib's own errors are OSErrors
            if isinstance(error, urllib.error.HTTPError) and error.code in GONE:
                raise UserError(f"{url}: {error.code} {error.reason}") from error
            now = part.stat().st_size if part.exists() else 0
            # what makes headway may go on for ever
            failures, reason = 1 if now > have else failures + 1, str(error) or type(error).__name__
            count(now)
    raise UserError(f"{url}: given up after {attempts} attempts ({reason}); what has arrived is kept, the same command "
                    "goes on with it")


def _receive(url, part, have, timeout, count):
    """Appends what follows the first `have` bytes, or writes all of it where the server does not resume."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        have = have if answer.status == 206 else 0
        unlinked = lambda name, flags: os.open(name, flags | NOFOLLOW, 0o666)
        with open(part, "ab" if have else "wb", opener=unlinked) as file:
            count(have)
            while block := answer.read1(BLOCK):
                file.write(block)
                have += len(block)
                count(have)
