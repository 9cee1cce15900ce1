"""The process that reads pictures: `python -m serving.picture_process`. One for each worker, for as long as that lives.

What a picture does to Pillow and NumPy it does here: they hold Python's lock for as long as they like, take memory up to a
limit, and should a decoder crash, no worker dies of it. Nothing secret is here: it is started without the server's settings.

In: a line of JSON (`bytes`, `content_type`, `many`, `max_pixels`, `max_images`), and so many bytes of a request's body.
Out: two lengths (`LENGTHS`), so much JSON (`boxes`, or `kind` and `error`), and so many bytes: 784 for each box.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import traceback
import warnings
from struct import Struct
from typing import Any, BinaryIO, Final

import orjson

from digits.errors import PictureError
from digits.picture.found import Found
from serving.errors import Kind, RequestError, malformed
from serving.protocols import classify

NICE: Final = 19  # where there is one core, small requests come first
LENGTHS: Final = Struct("<QQ")
OWN_BYTES: Final = 768 * 1024 * 1024  # of addresses, for Python and its libraries,
BYTES_A_PIXEL: Final = 40  # and for a picture; what a file asks for beyond that it does not get


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is not for us: whoever asks closes the pipe
    warnings.simplefilter("ignore")  # Pillow's, with words out of files
    (max_pixels,) = map(int, sys.argv[1:])
    # Now: later it would be for the first picture, and as idle as that. Not above: the workers take LENGTHS from this module,
    # and have no use for Pillow.
    import digits.picture.finding  # noqa: F401

    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError, AttributeError):  # Linux's: whoever else wakes goes on at once
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    most = OWN_BYTES + BYTES_A_PIXEL * max_pixels
    with contextlib.suppress(OSError, ValueError):  # a lower one stays
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, sys.stdout.buffer)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers one request after the other, until there are no more."""
    while line := requests.readline():
        asked = orjson.loads(line)
        body = requests.read(asked["bytes"])
        if len(body) != asked["bytes"]:
            return
        found: list[Found] = []
        try:
            found = _find(asked, body)
            answer: dict[str, Any] = {"boxes": [list(one.box) for one in found]}
        except RequestError as error:
            answer = {"kind": error.kind.name, "error": str(error)}
        except Exception:
            print("A picture could not be read:", ascii(traceback.format_exc()), file=sys.stderr, flush=True)
            answer = {"kind": Kind.FAILED.name, "error": "The server failed; its log says why."}
        del body
        document, images = orjson.dumps(answer), b"".join(one.image.tobytes() for one in found)
        answers.write(LENGTHS.pack(len(document), len(images)) + document + images)
        answers.flush()


def _find(asked: dict[str, Any], body: bytes) -> list[Found]:
    from digits.picture.file import decode
    from digits.picture.finding import find_digit, find_digits

    headers = {b"content-type": asked["content_type"].encode("latin-1")}
    try:
        picture = decode(classify.read_picture(body, headers), max_pixels=asked["max_pixels"])
        found = find_digits(picture) if asked["many"] else [find_digit(picture)]
    except PictureError as error:
        raise classify.refused_picture(error, headers) from error
    except MemoryError:
        raise RequestError(Kind.TOO_LARGE, "The picture takes more memory than there is. Send a smaller one.") from None
    if len(found) > asked["max_images"]:
        raise malformed(
            f"The picture has {len(found)} digits, and {asked['max_images']} are the most. Cut it into several."
        )
    return found


if __name__ == "__main__":
    main()
